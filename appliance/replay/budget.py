"""The time that `auto` may take: believed beforehand where it may be, kept by the clock elsewhere.

How long the original took stands in receipts, which are its signer's word, and of his machine. A
stranger may write one second where there are days. So recorded times count for goldens, for the
user's own runs and for bundles that he trusts, where the platform is the same; otherwise a few
steps are taken first, and what comes after them is stopped when the time is over.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType

from appliance.replay.subject import Subject


class OutOfTimeError(KeyboardInterrupt):
    """The time for something is over; it is stopped as on Ctrl-C."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimit:
    """At most ``seconds`` from ``began`` (``time.monotonic``) on; ``why`` such a limit is set."""

    seconds: float
    why: str
    began: float = field(default_factory=time.monotonic)

    @property
    def text(self) -> str:
        """The budget, as a person says it."""
        return describe_budget(self.seconds)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Do something in the main thread for as long as there is time. Raises OutOfTimeError."""

        def stop(number: int, frame: FrameType | None) -> None:
            if not isinstance(sys.exception(), KeyboardInterrupt):  # on Ctrl-C it stops already
                raise OutOfTimeError

        left = max(self.began + self.seconds - time.monotonic(), 0.001)  # 0 would set no alarm
        handler, timer = signal.signal(signal.SIGALRM, stop), (0.0, 0.0)
        try:
            timer = signal.setitimer(signal.ITIMER_REAL, left)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, *timer)
            signal.signal(signal.SIGALRM, handler)


def describe_budget(seconds: float) -> str:
    """The budget, as a person says it."""
    return f"the budget of {seconds / 60:g} minutes"


def describe_doubt(subject: Subject, *, same_platform: bool) -> str | None:
    """Why the times recorded with the original say nothing here; None when they count."""
    if subject.reference is None or subject.reference.is_recorded:
        return None
    if subject.report is not None and not subject.report.trusted:
        return "how long it takes is only the word of a signer you do not trust"
    return None if same_platform else "how long it takes was recorded on another platform"
