"""The most memory this process has had at once."""

from __future__ import annotations

from pathlib import Path


def peak_memory_kib() -> int:
    """Peak resident memory of this process alone, KiB.

    ``getrusage`` will not do: on Linux a started program's figure begins with its parent's.
    """
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmHWM; this is measured on Linux only")
