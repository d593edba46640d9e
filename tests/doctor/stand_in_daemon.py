"""A socket that answers like a Docker daemon to whoever only asks what it is."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def stand_in_daemon(folder: Path, info: Mapping[str, Any], *tags: str) -> Iterator[str]:
    """The address of a daemon that says ``info`` of itself and has one image with ``tags``."""
    version = {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10.24"}
    answers: dict[str, Any] = {
        "_ping": "OK",
        "version": version,
        "info": {"ServerVersion": "20.10.24", "Driver": "overlay2", **info},
        "json": [{"Id": "sha256:0", "RepoTags": list(tags)}],
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers[self.path.partition("?")[0].rpartition("/")[2]]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            del arguments

        def address_string(self) -> str:
            return "unix"

    path = folder / "d.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            server.shutdown()
            thread.join()
    path.unlink()
