"""What on this machine decides a result: packages, our own source, processor, GPUs, Python.

Read from package metadata, ``/proc`` and, where GPUs are asked for, ``nvidia-smi``; nothing heavy
is imported, so that ``explain`` and a run with nothing to do stay fast.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from appliance import __version__
from appliance.digest import sha256_file, tree_digest
from appliance.engine.gpus import GpuMissingError, handed_out, read_gpus
from appliance.manifest.difference import changed_fields
from appliance.manifest.lock import Lock

PACKAGE_DIR = Path(__file__).resolve().parent.parent
BASE_ROOMS = ("errors", "files", "digest", "streams", "manifest", "stages", "engine")
IMAGE = "image"
GPUS = "gpus"
SOURCE_SUFFIXES = (".py", ".json", ".yaml", ".yml", ".glsl", ".frag", ".vert")


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Installed version of each distribution; None where it is not installed."""
    return {name: _version(name) for name in sorted(names)}


@functools.cache
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def source_digests(rooms: Iterable[str]) -> dict[str, str]:
    """Tree digest of the source of each room of this package."""
    return {room: _room_digest(room) for room in sorted({*BASE_ROOMS, *rooms})}


@functools.cache
def _room_digest(room: str) -> str:
    folder = PACKAGE_DIR / room
    paths = sorted(folder.rglob("*")) if folder.is_dir() else [folder.with_suffix(".py")]
    return tree_digest(
        {
            path.relative_to(PACKAGE_DIR).as_posix(): sha256_file(path)
            for path in paths
            if path.suffix in SOURCE_SUFFIXES and path.is_file()
        }
    )


def describe_platform() -> dict[str, Any]:
    """The machine as far as it decides float bits; the same on every run of one machine."""
    return {
        "appliance": __version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "cpu_model": _cpu_field("model name"),
        "cpu_id": _cpu_id(),
        "cpu_caches": _cpu_caches(),
        "cpu_features": _simd_features(),
    }


def describe_gpus(count: int) -> dict[str, Any]:
    """The models of the ``count`` GPUs a stage is given here, beside ``describe_platform``.

    Empty without GPUs. Raises GpuMissingError when they cannot be had.
    """
    if not count:
        return {}
    return {GPUS: [gpu.name for gpu in handed_out(read_gpus(), count)]}


def describe_gpus_at_hand(count: int) -> dict[str, Any]:
    """As ``describe_gpus``, of a machine that need not have them: what it has instead."""
    try:
        return describe_gpus(count)
    except GpuMissingError:
        return {GPUS: []}


def describe_host(gpus: int = 0) -> dict[str, Any]:
    """What else a reader may want to know of the machine; decides nothing.

    The GPUs' driver is part of it where ``gpus`` of them were asked for and can be had.
    """
    return {
        **_gpu_driver(gpus),
        "kernel": platform.release(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": _os_name(),
    }


def _gpu_driver(count: int) -> dict[str, Any]:
    try:
        return {"gpu_driver": read_gpus()[0].driver} if count else {}
    except GpuMissingError:
        return {"gpu_driver": None}


def _simd_features() -> list[str]:
    wanted = {"sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "amx_tile"}
    return sorted(wanted & set((_cpu_field("flags") or "").split()))


def _cpu_id() -> str | None:
    """Vendor, family, model, stepping: two processors may carry the same name."""
    names = ("vendor_id", "cpu family", "model", "stepping")
    fields = [_cpu_field(name) for name in names]
    return None if None in fields else "-".join(map(str, fields))


@functools.cache
def _cpu_caches() -> list[str]:
    """Cache sizes by level; libraries cut matrices to them, and so order their sums."""
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text("ascii").strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        found.append(f"L{level} {kind} {size}")
    return found


@functools.cache
def _cpu_field(name: str) -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _os_name() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


class Environment(Protocol):
    """What stages will run in, as far as it decides their results."""

    @property
    def platform(self) -> Mapping[str, Any]:
        """What ``describe_platform`` says in a stage process; the lock adds the GPUs to it."""

    @property
    def image(self) -> Mapping[str, Any] | None:
        """The container image: id, digest, and the digest of its inventory; None on the host."""

    @property
    def robotwin(self) -> Mapping[str, str | None] | None:
        """Digests of the image's own RoboTwin (``Inventory.robotwin``); None where it has none."""

    def package_versions(self, names: Iterable[str]) -> dict[str, str | None]:
        """Installed version of each distribution; None where it is not installed."""

    def source_digests(self, rooms: Iterable[str]) -> dict[str, str]:
        """Tree digest of the source of each room, those every stage uses included."""


@dataclass(frozen=True, slots=True)
class OwnEnvironment:
    """The environment of this very process; ``image`` is the container image it runs in, if any."""

    image: Mapping[str, Any] | None = None
    robotwin: Mapping[str, str | None] | None = None

    @property
    def platform(self) -> Mapping[str, Any]:
        """See :class:`Environment`."""
        return describe_platform()

    def package_versions(self, names: Iterable[str]) -> dict[str, str | None]:
        """See :class:`Environment`."""
        return package_versions(names)

    def source_digests(self, rooms: Iterable[str]) -> dict[str, str]:
        """See :class:`Environment`."""
        return source_digests(rooms)


def locked_environment_parts(
    lock: Lock, rooms: Iterable[str], packages: Iterable[str], runtime: Mapping[str, Any]
) -> dict[str, Any]:
    """All of the environment that enters a stage's key, as the lock has it.

    Of a container image this is its inventory (what is installed in it), not its id: an image built
    again from the same sources keeps every result, one with a patched library keeps none.
    """
    platform = lock.to_dict()["platform"]
    image = platform.pop(IMAGE, None)
    return {
        "packages": {name: lock.packages.get(name) for name in sorted(packages)},
        "source": {room: lock.sources.get(room) for room in sorted({*BASE_ROOMS, *rooms})},
        "platform": platform,
        "runtime": dict(runtime),
        **({} if image is None else {IMAGE: image["inventory"]}),
    }


def find_environment_changes(
    lock: Lock, environment: Environment, rooms: Iterable[str], packages: Iterable[str]
) -> list[str]:
    """What of the locked environment is not so in ``environment``, as ``name: locked, found``.

    Raises GpuMissingError when GPUs are locked and cannot be had here.
    """
    locked = locked_environment_parts(lock, rooms, packages, {})
    gpus = describe_gpus(len(locked["platform"].get(GPUS, ())))
    found: dict[str, Any] = {
        "packages": environment.package_versions(packages),
        "source": environment.source_digests(rooms),
        "platform": {**environment.platform, **gpus},
        "runtime": {},
        **({IMAGE: locked[IMAGE]} if IMAGE in locked else {}),
    }
    return [f"{path}: {old}, now {new}" for path, old, new in changed_fields(locked, found)]
