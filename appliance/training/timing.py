"""What a session's time went into: compiling, waiting for data, saving; never part of the content.

The device waits for data only while it is idle, and it is idle only when a step has finished before
the next batch is there. The time of such fetches, whole, is an upper bound of that wait.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from appliance.errors import StorageError
from appliance.files import read_json, write_json

TIMING_FILE = "timing.json"

Batch = TypeVar("Batch")


class Stopwatch:
    """Seconds by name, and the steps of this session; ``facts`` are told beside them."""

    def __init__(self, first_step: int, facts: Mapping[str, Any] | None = None) -> None:
        self.first_step = first_step
        self.facts = dict(facts or {})
        self.steps = 0
        self.started_s = time.perf_counter()
        self.seconds: dict[str, float] = {"compile": 0.0, "save": 0.0, "device_wait": 0.0}
        self.loop_started_s: float | None = None

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time inside to ``name``."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start_s)

    def add(self, name: str, seconds: float) -> None:
        """Add ``seconds`` to ``name``."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def fetch(self, batches: Iterator[Batch], busy: Callable[[], bool]) -> Batch:
        """The next batch; counted as device wait unless the device is still ``busy`` after it."""
        start_s = time.perf_counter()
        batch = next(batches)
        if not busy():
            self.add("device_wait", time.perf_counter() - start_s)
        return batch

    def start_loop(self) -> None:
        """The first step begins now."""
        self.loop_started_s = time.perf_counter()

    def describe(self) -> dict[str, Any]:
        """The session so far; rates are over the loop without saving."""
        now_s = time.perf_counter()
        loop_s = 0.0 if self.loop_started_s is None else now_s - self.loop_started_s
        stepping_s = loop_s - self.seconds["save"]
        return {
            **self.facts,
            "first_step": self.first_step,
            "steps": self.steps,
            "total_s": now_s - self.started_s,
            "loop_s": loop_s,
            "compile_s": self.seconds["compile"],
            "save_s": self.seconds["save"],
            "device_wait_s_at_most": self.seconds["device_wait"],
            "steps_per_s": self.steps / stepping_s if stepping_s > 0 else 0.0,
            "device_wait_fraction_at_most": (
                self.seconds["device_wait"] / stepping_s if stepping_s > 0 else 0.0
            ),
        }


class SessionLog:
    """``timing.json``: one entry a session, the current one rewritten as it goes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / TIMING_FILE
        self.earlier: list[Any] = []
        with contextlib.suppress(StorageError):
            found = read_json(self.path)
            self.earlier = list(found.get("sessions", [])) if isinstance(found, dict) else []

    def write(self, watch: Stopwatch) -> None:
        """Write the earlier sessions and this one. Raises StorageError."""
        write_json(self.path, {"sessions": [*self.earlier, watch.describe()]})
