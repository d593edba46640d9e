"""A server that answers the real Docker SDK as an engine does, or fails as one does.

It runs nothing: every container writes ``SAID`` and ends as its answers say.
"""

from __future__ import annotations

import json
import re
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote

SAID = b"words of a stage\n"
NAME = "made"
_START_TIMEOUT_S = 10

# Status and JSON value; None hangs up instead.
Answer: TypeAlias = tuple[int, Any] | None

ANSWERS: Mapping[str, Answer] = {
    "GET /_ping": (200, "OK"),
    "GET /version": (200, {"ApiVersion": "1.41"}),
    "GET /info": (200, {"NCPU": 2, "MemTotal": 8 << 30, "Driver": "stand-in"}),
    "GET /containers/json": (200, []),
    "GET /images/json": (200, []),
    "POST /containers/create": (201, {"Id": NAME}),
    f"GET /containers/{NAME}/json": (
        200,
        {"Config": {"Tty": False}, "State": {"OOMKilled": False, "ExitCode": 0}},
    ),
    f"POST /containers/{NAME}/start": (204, None),
    f"POST /containers/{NAME}/wait": (200, {"StatusCode": 0}),
    f"GET /containers/{NAME}/logs": (200, {}),
    f"DELETE /containers/{NAME}": (204, None),
}


def refusal(text: str, status: int = 400) -> Answer:
    """What an engine says when it does not do something."""
    return status, {"message": text}


class Asked(list[str]):
    """Method and path of each request; ``created`` is what containers were asked to be."""

    def __init__(self) -> None:
        super().__init__()
        self.created: list[dict[str, Any]] = []


@contextmanager
def stand_in_engine(socket: Path, **changes: Answer) -> Iterator[Asked]:
    """Serve at ``socket``; yields what was asked, as it comes.

    ``changes`` are answers by the last word of the path they are for (``start``, ``info``):
    ``json`` is the container's, any other word an image.
    """
    asked = Asked()
    started = threading.Event()
    answers = dict(ANSWERS)
    for word, answer in changes.items():
        wanted = f"/{NAME}/json" if word == "json" else f"/{word}"
        (key,) = [each for each in answers if each.endswith(wanted)] or [f"GET /images/{word}/json"]
        answers[key] = answer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            path = unquote(re.sub(r"^/v[0-9.]+", "", self.path.partition("?")[0]))
            asked.append(f"{self.command} {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if path == "/containers/create":
                asked.created.append(json.loads(body))
            if path.endswith("/attach"):
                self.wfile.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n")
                started.wait(_START_TIMEOUT_S)
                with suppress(OSError):  # the caller may be gone
                    self.wfile.write(b"\x01\0\0\0" + len(SAID).to_bytes(4, "big") + SAID)
                self.close_connection = True
                return
            thing = "No such image" if path.startswith("/images/") else "no such thing"
            answer = answers.get(f"{self.command} {path}", refusal(thing, 404))
            if answer is None:
                self.close_connection = True
                return
            status, value = answer
            body = b"" if value is None else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            if path.endswith("/start"):
                started.set()

        do_GET = do_POST = do_DELETE = _answer

        def log_message(self, *words: object) -> None:
            """Tests say what went wrong themselves."""

    with socketserver.ThreadingUnixStreamServer(str(socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield asked
        finally:
            started.set()
            server.shutdown()
            thread.join()
