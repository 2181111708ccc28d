"""An object store on this machine that counts what it is asked for: moto's S3, on a free port.

moto has no types for the checkers and need not be installed, so ``started`` imports it.
"""

import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from zarr.core.sync import sync

__all__ = ["MISSING", "Request", "Server", "accept_all", "started"]

MISSING = [name for name in ("obstore", "moto", "flask_cors") if find_spec(name) is None]
"""What is not installed of what tests with an object store need."""

Answer = Iterable[bytes]


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for."""

    method: str
    key: str
    """Key within its bucket; empty for what concerns the bucket as a whole."""
    sent: int
    """Bytes of the answer."""


def accept_all(method: str, key: str) -> bool:
    """Refuse nothing."""
    return False


class Server:
    """An object store that can be told to be slow, or to fail.

    Parameters
    ----------
    app
        What answers the requests.
    """

    def __init__(self, app: Callable[..., Answer]) -> None:
        self.address = ""
        self.requests: list[Request] = []
        self.refuses: Callable[[str, str], bool] = accept_all
        """Which requests, by method and key, fail as those to a store in trouble do."""
        self.delay = 0.0
        """Seconds until an answer."""
        self._app = app

    def __call__(self, environ: dict[str, Any], respond: Any) -> Answer:
        """Answer a request, and note it."""
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        key = path.lstrip("/").partition("/")[2]
        time.sleep(self.delay)
        if self.refuses(method, key):
            respond("503 Service Unavailable", [("Content-Length", "0")])
            answer = b""
        else:
            answer = b"".join(self._app(environ, respond))
        self.requests.append(Request(method, key, len(answer)))
        return [answer]

    @property
    def settings(self) -> dict[str, str]:
        """Environment variables by which clients of S3 find it."""
        return {
            "AWS_ACCESS_KEY_ID": "anybody",
            "AWS_ALLOW_HTTP": "true",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.address,
            "AWS_SECRET_ACCESS_KEY": "anything",
        }

    def make_bucket(self, name: str) -> None:
        """Make a bucket."""
        request = urllib.request.Request(f"{self.address}/{name}", method="PUT")  # noqa: S310  # ours
        urllib.request.urlopen(request).close()  # noqa: S310  # the same

    def counted(self) -> list[Request]:
        """Return the requests since the last call."""
        requests, self.requests = self.requests, []
        return requests


@contextmanager
def started() -> Generator[Server]:
    """Run an empty object store."""
    moto: Any = import_module("moto.server")
    serving: Any = import_module("werkzeug.serving")
    server = Server(moto.DomainDispatcherApplication(moto.create_backend_app))
    # Connections stay open as those to a real one do, and nothing is logged.
    quiet: dict[str, object] = {"protocol_version": "HTTP/1.1", "log_request": _say_nothing}
    handler = type("Handler", (serving.WSGIRequestHandler,), quiet)
    running = serving.make_server("127.0.0.1", 0, server, threaded=True, request_handler=handler)
    server.address = f"http://127.0.0.1:{running.server_port}"
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    forget_clients()
    try:
        yield server
    finally:
        forget_clients()
        running.shutdown()
        thread.join()
        running.server_close()


def forget_clients() -> None:
    """Close the sessions of s3fs, which it keeps open, and have it make new clients.

    It keeps those of another server, by their arguments; and a test must leave nothing open.
    """
    s3fs: Any = sys.modules.get("s3fs")
    if s3fs is not None:
        for system in [*s3fs.S3FileSystem._cache.values()]:
            if system._s3 is not None:
                sync(system._s3.close())
        s3fs.S3FileSystem.clear_instance_cache()


def _say_nothing(*_: object) -> None: ...
