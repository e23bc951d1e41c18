"""Hosts of a network on this machine, made of Linux namespaces, that are reached by SSH and can lose their power.

Each host has its own network interface and address, process table, host name, temporary folder, shared
memory, accounts with a home folder, and SSH server; the rest of the file system is this machine's, so
that the packages installed here are there too. What one host does to its processes touches no other.

    with Network() as network:
        host = network.add("worker-1")
        host.run("ray --version")
        host.lose_power()

At the end everything is gone. A host ends by itself when the process that made it does, because its
first process then finds its input at an end; the bridge and the folder, which such a death leaves, are
removed by the next Network.

Linux only, as root, with the programs of `PROGRAMS`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import pytest
from cluster import children, is_alive

from orchestrator import identity

MARK = "ORCHESTRATOR_TEST_HOST"
"""Environment variable that marks the first process of a host; its value names the bridge."""

PROGRAMS = {
    "ip": "iproute2",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "rsync": "rsync",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
}
"""What hosts are made with, and the Debian packages that it comes from."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOME = Path("/tmp/home")
"""Home folder of root on every host, in its own temporary folder."""

PREFIX = "orch"  # of bridges; a name has at most 15 letters

# The first process of a host. It waits for its network, makes what is its own, and serves SSH until
# its input ends, with which everything on the host does.
INIT = """
set -e
read -r go
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mkdir /run/sshd
mount --bind {folder}/passwd /etc/passwd
mount --bind {folder}/shadow /etc/shadow
mount --bind {folder}/hosts /etc/hosts
{binds}
mount --rbind {folder}/tmp /tmp
hostname {name}
{sshd} -D -e -f /tmp/.ssh-server/config 2>/tmp/.ssh-server/log &
echo up
while read -r line; do :; done
"""


def missing() -> str | None:
    """Why this machine can have no such hosts, as a sentence; None if it can."""
    if sys.platform != "linux":
        return "Hosts are made of Linux namespaces, and this is no Linux."
    absent = sorted({package for program, package in PROGRAMS.items() if _program(program) is None})
    if absent:
        return f"Hosts need programs that are not here: install {', '.join(absent)}."
    if os.geteuid() != 0:
        return "Only root may make hosts of Linux namespaces."
    for words in (
        ["unshare", "-n", "-p", "-f", "-m", "-u", "--mount-proc", "true"],
        ["ip", "link", "add", f"{PREFIX}-try{os.getpid()}", "type", "bridge"],
        ["ip", "link", "del", f"{PREFIX}-try{os.getpid()}"],
    ):
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            return f"This machine permits no namespaces: `{shlex.join(words)}` says {done.stderr.strip()!r}."
    return None


def need_hosts() -> None:
    """Skip the test where there can be no hosts; fail it in CI, which has to be able to have them."""
    why = missing()
    if why is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


class Network:
    """A bridge with an address, to which hosts are attached; this machine belongs to it too.

    Attributes:
        address: this machine's on the network.
        key: of root on all hosts; its public half is known to every host.
    """

    def __init__(self) -> None:
        remove_leftovers()
        self.hosts: list[Host] = []
        self._bridge, self._subnet = _new_bridge()
        self.address = f"{self._subnet}.1"
        self.folder = Path(tempfile.gettempdir(), self._bridge)
        try:
            self.folder.mkdir(mode=0o755)
            self.key = self.folder / "key"
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self._bridge, "-f", str(self.key))
            _run("ip", "addr", "add", f"{self.address}/24", "dev", self._bridge)
            _run("ip", "link", "set", self._bridge, "up")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, name: str, *, files: dict[str, str] | None = None) -> Host:
        """A new host that answers by SSH.

        Args:
            files: text by path below its home folder.
        """
        number = len(self.hosts) + 2
        host = Host(self, name, f"{self._subnet}.{number}", f"{self._bridge}.{number}", files or {})
        self.hosts.append(host)
        host._start(self._bridge)
        return host

    def close(self) -> None:
        """End all hosts and remove what was made.

        Raises:
            RuntimeError: something is left.
        """
        for host in self.hosts:
            host._end()
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        left = [str(pid) for pid in _first_processes(self._bridge)]
        left += [str(self.folder)] if self.folder.exists() else []
        left += [self._bridge] if self._bridge in _bridges() else []
        if left:
            raise RuntimeError(f"Of the hosts there is left: {', '.join(left)}.")


class Host:
    """A host of a network (see `Network.add`).

    Attributes:
        address: its own on the network.
        home: its home folder as seen from this machine; on the host it is `HOME`.
    """

    def __init__(self, network: Network, name: str, address: str, link: str, files: dict[str, str]) -> None:
        self.network = network
        self.name = name
        self.address = address
        self._link = link
        self.folder = network.folder / name
        self.temporary = self.folder / "tmp"
        self.home = self.temporary / HOME.relative_to("/tmp")
        self.files = files
        self._parent: subprocess.Popen[str] | None = None
        self._first = 0

    def run(self, command: str, *, check: bool = True, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """What somebody types who sits before the host: a line for a login shell; errors come with the output."""
        done = subprocess.run(
            self.words(command),
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise RuntimeError(f"On {self.name} `{command}` ends with {done.returncode}:\n{done.stdout[-6000:]}")
        return done

    @property
    def network_words(self) -> list[str]:
        """What goes before a command of this machine that is to be on the network as this host."""
        return ["nsenter", "-t", str(self._first), "-n"]

    def words(self, command: str) -> list[str]:
        """The command that has a line carried out on the host."""
        return [*self.network_words, "-p", "-m", "-u", "bash", "--login", "-c", f"cd; source ~/.bashrc; {command}"]

    @property
    def env(self) -> dict[str, str]:
        """The environment in which `words` are to be run."""
        return {"PATH": PATH, "HOME": str(HOME), "USER": "root", "LOGNAME": "root", "LANG": "C.UTF-8"}

    def give_packages(self, folder: str = "venv") -> None:
        """A virtual environment in the home folder that has the packages installed here, as if pip had put them there.

        pip works in it without a network.
        """
        made = self.home / folder
        venv.EnvBuilder(symlinks=True).create(made)
        site = next(made.glob("lib/python*/site-packages"))
        (site / "installed.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")) + "\n")
        ray = made / "bin" / "ray"
        ray.write_text(f"#!{HOME / folder}/bin/python\nfrom ray.scripts.scripts import main\n\nmain()\n")
        ray.chmod(0o755)
        config = self.home / ".config" / "pip" / "pip.conf"
        config.parent.mkdir(parents=True)
        config.write_text("[global]\nno-index = true\nno-build-isolation = false\n")  # which means: none

    def processes(self, word: str = "") -> list[str]:
        """Command lines of what runs on the host, those that contain a word."""
        if not self.is_up:
            return []
        lines = self.run("for p in /proc/[0-9]*/cmdline; do tr '\\0\\n' '  ' < $p; echo; done 2>/dev/null").stdout
        return [line.strip() for line in lines.splitlines() if word in line and line.strip()]

    @property
    def is_up(self) -> bool:
        return bool(self._first) and is_alive(self._first)

    def unplug(self) -> None:
        """The network cable is pulled: nobody is told anything any more."""
        _run("ip", "link", "set", self._link, "down")

    def plug(self) -> None:
        """The reverse of `unplug`."""
        _run("ip", "link", "set", self._link, "up")

    def lose_power(self) -> None:
        """All processes are gone at once, and no connection is closed."""
        self.unplug()
        self._end()

    def _start(self, bridge: str) -> None:
        self._furnish()
        binds = []
        for path in dict.fromkeys((Path(sys.base_prefix), Path(sys.prefix))):
            # The installed packages: there even where the host's own /tmp would hide them, and not to be changed.
            there = self.temporary / path.relative_to("/tmp") if path.is_relative_to("/tmp") else path
            here, seen = shlex.quote(str(path)), shlex.quote(str(there))
            binds.append(f"mkdir -p {seen}; mount --bind {here} {seen}; mount -o remount,bind,ro {seen}")
        script = INIT.format(
            folder=shlex.quote(str(self.folder)),
            name=self.name,
            binds="\n".join(binds),
            sshd=_program("sshd"),
        )
        self._parent = subprocess.Popen(
            ["unshare", "-n", "-p", "-f", "-m", "-u", "--mount-proc", "bash", "-c", script],
            env={**self.env, MARK: bridge},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            start_new_session=True,  # Ctrl-C at the test is not meant for the hosts
        )
        until = time.monotonic() + 20
        while not (found := children(self._parent.pid)):
            if self._parent.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"The host {self.name} does not start.")
            time.sleep(0.02)
        self._first = found[0]
        inside = ["nsenter", "-t", str(self._first), "-n", "ip"]
        # The other end appears in the network namespace that the process has made by now: it is unshare's as well.
        _run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", str(self._first))
        _run("ip", "link", "set", self._link, "master", bridge, "up")
        _run(*inside, "addr", "add", f"{self.address}/24", "dev", "eth0")
        _run(*inside, "link", "set", "lo", "up")
        _run(*inside, "link", "set", "eth0", "up")
        _run(*inside, "route", "add", "default", "via", self.network.address)  # else Ray takes 127.0.0.1 for its own
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.write("go\n")
        self._parent.stdin.flush()
        if self._parent.stdout.readline() != "up\n":
            raise RuntimeError(f"The host {self.name} does not come up.")
        while not self._answers():
            if time.monotonic() > until:
                log = self.temporary / ".ssh-server" / "log"
                raise RuntimeError(f"No SSH server answers on {self.name}:\n{log.read_text()}")
            time.sleep(0.05)

    def _furnish(self) -> None:
        """Its folders and files."""
        server = self.temporary / ".ssh-server"
        for path in (self.home, server):
            path.mkdir(parents=True, mode=0o700)
        self.temporary.chmod(0o1777)
        account = f"root:x:0:0:root:{HOME}:/bin/bash"
        others = Path("/etc/passwd").read_text().splitlines()[1:]
        (self.folder / "passwd").write_text("\n".join([account, *others]) + "\n")
        (self.folder / "shadow").write_text("root:*:20000:0:99999:7:::\nsshd:!:20000::::::\n")
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(server / "key"))
        shutil.copy(f"{self.network.key}.pub", server / "authorized")
        (server / "config").write_text(
            f"ListenAddress {self.address}\nHostKey /tmp/.ssh-server/key\nPidFile none\nUsePAM no\n"
            "AuthorizedKeysFile /tmp/.ssh-server/authorized\nStrictModes no\nPermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\nMaxSessions 100\n"
        )
        for path, text in self.files.items():
            file = self.home / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o600)

    def _answers(self) -> bool:
        return self.run(f"exec 3<>/dev/tcp/{self.address}/22", check=False).returncode == 0

    def _end(self) -> None:
        """End the host's first process, and with it all others."""
        if self._parent is None:
            return
        if self._first:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._first, signal.SIGKILL)
        self._parent.kill()
        self._parent.wait(timeout=30)
        for pipe in (self._parent.stdin, self._parent.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        subprocess.run(["ip", "link", "del", self._link], capture_output=True)  # its namespace may linger
        self._parent, self._first = None, 0


def remove_leftovers() -> None:
    """Remove what is left of networks whose process has died before it could."""
    for bridge, owner in _bridges().items():
        if not identity.is_abandoned(owner):
            continue
        for pid in _first_processes(bridge):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 10
        while _first_processes(bridge) and time.monotonic() < until:
            time.sleep(0.05)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True)
        shutil.rmtree(Path(tempfile.gettempdir(), bridge), ignore_errors=True)


def _new_bridge() -> tuple[str, str]:
    """A bridge of our own, and the first three numbers of the addresses of its network, which nobody uses here."""
    for _ in range(100):
        number = random.SystemRandom().randrange(64 * 256)
        bridge, subnet = f"{PREFIX}-{number:04x}", f"10.{128 + number // 256}.{number % 256}"
        used = _run("ip", "-o", "-4", "addr") + _run("ip", "route")
        if (
            f" {subnet}." in used
            or subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], capture_output=True).returncode
        ):
            continue  # another has this one
        _run("ip", "link", "set", bridge, "alias", f"{identity.mine()}-hosts")
        return bridge, subnet
    raise RuntimeError("There is no free network for hosts.")


def _bridges() -> dict[str, str]:
    """The bridges of all networks of this machine, with the name of the process that each belongs to."""
    found = json.loads(_run("ip", "-json", "link", "show", "type", "bridge") or "[]")
    return {b["ifname"]: b.get("ifalias", "") for b in found if b.get("ifname", "").startswith(f"{PREFIX}-")}


def _first_processes(bridge: str) -> list[int]:
    """The live first processes of a network's hosts (and the processes that wait for these)."""
    wanted = f"{MARK}={bridge}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0") and is_alive(int(name)):
                    found.append(int(name))
    return found


def _program(name: str) -> str | None:
    return shutil.which(name, path=PATH)


def _run(*words: str) -> str:
    """Standard output of a command of this machine."""
    done = subprocess.run([_program(words[0]) or words[0], *words[1:]], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"`{shlex.join(words)}` fails: {done.stderr.strip()}")
    return done.stdout
