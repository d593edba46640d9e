"""Checks of the machine itself: Python, processor, memory, disk, clock, packages, signing key."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import appliance
from appliance.bundle.keys import PRIVATE_KEY_FILE, default_key_dir, is_encrypted, load_key
from appliance.doctor.check import Finding, good, missing, note

GIB = 2**30
LEAST_MEMORY_BYTES = 3 * GIB
GOOD_MEMORY_BYTES = 6 * GIB
LEAST_DISK_BYTES = 2 * GIB
GOOD_DISK_BYTES = 10 * GIB
RUN_PACKAGES = (
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "torch",
    "lerobot",
    "av",
    "sapien",
    "rlinf-robotwin-runtime",
    "toppra",
    "websockets",
    "docker",
    "matplotlib",
)
SETUP = "run `make setup`, or install the extra `run`"

_TIME_NOT_SYNCHRONIZED = 5  # TIME_ERROR of adjtimex(2)
_TIMEX_BYTES = 512
_UNLIMITED_BYTES = 2**60


def look_at_python() -> Finding:
    """Python 3.11, which the lock files and lerobot are for."""
    found = f"{platform.python_version()} ({sys.executable})"
    if platform.python_version_tuple()[:2] == ("3", "11"):
        return good(found)
    return missing(found, "use Python 3.11: apt-get install python3.11 python3.11-venv")


def look_at_processor() -> Finding:
    """x86-64 with AVX2, the instruction set manifests pin by default."""
    machine, count = platform.machine(), os.cpu_count() or 1
    flags = _cpu_flags()
    found = f"{machine}, {count} cores"
    if machine != "x86_64":
        return missing(found, "use an x86-64 machine: SAPIEN and the lock files are for it")
    if "avx2" not in flags:
        return note(f"{found}, without AVX2", "set runtime.cpu_max_isa: SSE4_2 or AVX")
    return good(f"{found}, AVX2")


def _cpu_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return set(value.split())
    return set()


def look_at_memory() -> Finding:
    """What this process may use: the machine's memory, or its container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _container_limit()
    usable = min(total, limit)
    found = f"{usable / GIB:.1f} GiB" + (" (container's limit)" if limit < total else "")
    if usable < LEAST_MEMORY_BYTES:
        return missing(found, f"give it {GOOD_MEMORY_BYTES // GIB} GiB")
    if usable < GOOD_MEMORY_BYTES:
        return note(found, "run with one simulator (runtime.cpu_threads: 1) or give it 6 GiB")
    return good(found)


def _container_limit() -> int:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text("utf-8").strip()
        return int(text) if text.isdecimal() else _UNLIMITED_BYTES
    except OSError:
        return _UNLIMITED_BYTES


def look_at_disk(folder: Path) -> Callable[[], Finding]:
    """Free space where runs are written, and whether they can be."""

    def look() -> Finding:
        place = folder.absolute()
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        found = f"{free / GIB:.1f} GiB free at {place}"
        if not os.access(place, os.W_OK | os.X_OK):
            return missing(f"{place} cannot be written", "choose another folder with --run-dir")
        if free < LEAST_DISK_BYTES:
            return missing(found, f"free {GOOD_DISK_BYTES // GIB} GiB")
        if free < GOOD_DISK_BYTES:
            return note(found, "a full-size checkpoint needs 13 GiB and more")
        return good(found)

    return look


def look_at_clock() -> Finding:
    """A clock that stands before this program was installed dates every signature wrongly."""
    now = datetime.now(UTC)
    found = now.strftime("%Y-%m-%d %H:%M:%S UTC")
    installed_s = Path(appliance.__file__).stat().st_mtime
    if now.timestamp() < installed_s - 86_400:
        return missing(f"{found}, before this program was installed", "set the clock")
    began_s, began_monotonic_s = time.time(), time.monotonic()
    time.sleep(0.05)
    drift_s = abs((time.time() - began_s) - (time.monotonic() - began_monotonic_s))
    if drift_s > 1:
        return missing(f"{found}, and jumps by {drift_s:.0f} s", "see what sets the clock")
    if _is_unsynchronized():
        return note(f"{found}, not synchronized", "start a time service: apt-get install chrony")
    return good(found)


def _is_unsynchronized() -> bool:
    """What the kernel says (adjtimex(2), reading only); False where it cannot be asked."""
    try:
        buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
        return int(ctypes.CDLL(None).adjtimex(buffer)) == _TIME_NOT_SYNCHRONIZED
    except (OSError, AttributeError):
        return False


def look_at_packages(names: Sequence[str] = RUN_PACKAGES) -> Finding:
    """The libraries a run needs, by their installed metadata; none is imported."""
    absent = [name for name in names if not _is_installed(name)]
    if absent:
        return missing(f"not installed: {', '.join(absent)}", SETUP)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names[:1])
    return good(f"all {len(names)} of a run ({versions}, ...)")


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def look_at_key(key_dir: Path | None) -> Callable[[], Finding]:
    """The signing key; it is made by the first run, so none is no fault."""

    def look() -> Finding:
        path = (key_dir or default_key_dir()) / PRIVATE_KEY_FILE
        if not (path.exists() or path.is_symlink()):
            return good(f"none yet: the first run makes one at {path}")
        if is_encrypted(key_dir):
            return good(f"{path}, with a passphrase")
        return good(f"{load_key(key_dir).key_id[:16]} ({path})")

    return look
