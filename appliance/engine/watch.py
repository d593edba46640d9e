"""A stage in a container ends when the run that started it does.

The run holds a lock on a file of the run folder for as long as it lives, however it ends. The stage
tries to take it: as long as that fails, the run is there. No daemon has to be alive for this.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from pathlib import Path

CLAIM = "APPLIANCE_ENGINE_CLAIM"
_INTERVAL_S = 1.0


def watch_claim() -> None:
    """Kill this process once the run that holds the claim is gone; without one, do nothing."""
    claim = os.environ.get(CLAIM)
    if claim is None:
        return
    threading.Thread(target=_watch, args=(Path(claim),), name="watch-run", daemon=True).start()


def _watch(claim: Path) -> None:
    while run_is_alive(claim):
        time.sleep(_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGKILL)


def run_is_alive(claim: Path) -> bool:
    """Whether some process holds the lock on ``claim``; a missing file is held by none."""
    try:
        handle = os.open(claim, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
