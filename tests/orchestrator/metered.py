"""A proxy before a real S3 server that counts what passes."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from s3 import BUCKET, REGION


@dataclass
class Meter:
    """What has passed.

    Attributes:
        endpoint: "host:port" to be used in the server's place.
        gets: requests for the contents of objects, by path in the bucket; `sent`: bytes of the answers.
    """

    endpoint: str = ""
    gets: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def uri(self, prefix: str = "study") -> str:
        """Like `S3Server.uri`, by way of the proxy."""
        return f"s3://{BUCKET}/{prefix}?scheme=http&endpoint_override={quote(self.endpoint, safe='')}&region={REGION}"

    def fetched(self, name: str, what: Counter[str] | None = None) -> int:
        """How often the objects whose paths end in `name` were asked for."""
        counts = self.gets if what is None else what
        return sum(n for path, n in counts.items() if path.endswith(name))

    def clear(self) -> None:
        with self.lock:
            self.gets.clear()
            self.sent.clear()


@contextmanager
def metered(endpoint: str) -> Iterator[Meter]:
    """A proxy before the server at `endpoint`."""
    meter = Meter()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = b""
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
            elif length := int(self.headers.get("Content-Length") or 0):
                body = self.rfile.read(length)
            there = http.client.HTTPConnection(endpoint, timeout=60)
            try:
                there.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection", "expect"):
                        there.putheader(name, value)
                there.putheader("Content-Length", str(len(body)))
                there.endheaders(body)
                answer = there.getresponse()
                data = answer.read()
                self.send_response_only(answer.status, answer.reason)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(data)
            finally:
                there.close()
            path = unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")
            if self.command == "GET" and answer.status in (200, 206) and "list-type" not in self.path:
                with meter.lock:
                    meter.gets[path] += 1
                    meter.sent[path] += len(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        meter.endpoint = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield meter
        finally:
            server.shutdown()
            thread.join()
