"""A real browser without a display, driven over a pipe: Debian's chromium, nothing else installed.

Chromium speaks its DevTools protocol over two pipes (``--remote-debugging-pipe``): JSON messages
that end in a zero byte. No port is opened and no driver is needed.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from select import select
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL_TIMEOUT_S = 400
ANSWER_TIMEOUT_S = 60.0


def find_browser() -> str | None:
    """The path of a chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def install_browser() -> str:
    """Get chromium from Debian when we are root and can; returns why not, empty when it is there.

    A lock keeps several test processes from installing at once.
    """
    if find_browser():
        return ""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "there is no chromium, and only root on Debian can install it (apt-get)"
    with (Path(tempfile.gettempdir()) / "plan-star-chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if find_browser():
            return ""
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        packages = ("chromium", "fonts-dejavu-core", "poppler-utils")
        for command in (
            ("apt-get", "update", "-qq"),
            ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages),
        ):
            try:
                done = subprocess.run(
                    command, env=quiet, capture_output=True, timeout=INSTALL_TIMEOUT_S, check=False
                )
            except subprocess.TimeoutExpired:
                return f"{' '.join(command)} took longer than {INSTALL_TIMEOUT_S} s"
            if done.returncode != 0:
                return f"{' '.join(command)}: {done.stderr.decode(errors='replace')[-300:]}"
    return "" if find_browser() else "apt-get installed no chromium"


class Browser:
    """One chromium with one page; use it as a context manager.

    ``events`` are all notifications so far, as (method, parameters).
    """

    def __init__(self, executable: str) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._count = 0
        self._buffer = b""
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        self._process = self._start(executable, to_browser, from_browser)
        os.close(to_browser)
        os.close(from_browser)
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM", "Accessibility", "Security"):
            self.send(f"{domain}.enable")

    def _start(
        self, executable: str, to_browser: int, from_browser: int
    ) -> subprocess.Popen[bytes]:
        def place_pipes() -> None:
            high_read, high_write = (
                fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (to_browser, from_browser)
            )
            os.dup2(high_read, 3)
            os.dup2(high_write, 4)

        command = [
            executable,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._profile}",
            "about:blank",
        ]
        return subprocess.Popen(
            command,
            preexec_fn=place_pipes,  # noqa: PLW1509
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session = None
        with contextlib.suppress(OSError, AssertionError):
            self.send("Browser.close")
        for descriptor in (self._write, self._read):
            os.close(descriptor)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; an error fails the test."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        for answer in self._messages(ANSWER_TIMEOUT_S):
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
        raise AssertionError(f"{method}: no answer in {ANSWER_TIMEOUT_S} s")

    def _messages(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """Messages as they come; notifications are kept in ``events``."""
        end_s = time.monotonic() + timeout_s
        while True:
            while b"\0" in self._buffer:
                line, _, self._buffer = self._buffer.partition(b"\0")
                message = json.loads(line)
                if "method" in message:
                    self.events.append((message["method"], message.get("params", {})))
                yield message
            left_s = end_s - time.monotonic()
            if left_s <= 0 or not select([self._read], [], [], left_s)[0]:
                return
            piece = os.read(self._read, 1 << 20)
            assert piece, "the browser ended"
            self._buffer += piece

    def open(self, path: Path) -> None:
        """Load a file and wait until it is laid out; ``events`` begin anew."""
        self.events.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("Page.loadEventFired")
        self.evaluate("document.fonts.ready.then(() => 1)")

    def wait_for(self, event: str, timeout_s: float = 30.0) -> None:
        """Wait until a notification of this name is there."""
        if any(name == event for name, _ in self.events):
            return
        for message in self._messages(timeout_s):
            if message.get("method") == event:
                return
        raise AssertionError(f"{event} did not come in {timeout_s} s")

    def evaluate(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression; promises are waited for.

        Runs in a world of its own, where the page's policy does not hold.
        """
        answer = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def resize(self, width: int, height: int = 800, *, phone: bool = False) -> None:
        """Set the viewport in CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )

    def emulate(self, *, media: str = "", **features: str) -> None:
        """Set the medium and features such as ``prefers_color_scheme="dark"``."""
        self.send(
            "Emulation.setEmulatedMedia",
            media=media,
            features=[
                {"name": name.replace("_", "-"), "value": value} for name, value in features.items()
            ],
        )

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        down = {"type": "keyDown" if text else "rawKeyDown", **common}
        self.send("Input.dispatchKeyEvent", **down, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def photograph(self, path: Path) -> None:
        """Write a picture of the whole page (PNG)."""
        answer = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def print_pdf(self) -> bytes:
        """The page as it would be printed on A4."""
        answer = self.send(
            "Page.printToPDF", preferCSSPageSize=True, paperWidth=8.27, paperHeight=11.69
        )
        return base64.b64decode(answer["data"])
