"""What the container engine of this machine is, for whoever wants to know before using it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.engine.daemon import LOCAL_IMAGES, connected, daemon_errors

if TYPE_CHECKING:
    from docker import DockerClient


CONTAINERD_DIR = Path("/var/lib/containerd")
_CONTAINERD_STORE = "io.containerd.snapshotter.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """The daemon's version, how and where it stores images, and which of ours it has.

    ``image_dirs`` are paths of the daemon's machine. ``num_cpus`` and ``memory_bytes`` are the most
    a container can be given; ``has_gpu_runtime``: whether it can be given GPUs.
    ``security_options`` say among others how ids in containers are the machine's
    (``container_user``).
    """

    version: str
    storage_driver: str
    image_dirs: tuple[Path, ...]
    images: tuple[str, ...]
    runtimes: tuple[str, ...]
    has_gpu_runtime: bool
    num_cpus: int
    memory_bytes: int
    security_options: tuple[str, ...]


def probe_engine() -> EngineFacts:
    """Ask the daemon. Raises RuntimeMissingError when it does not answer, StageFailedError."""
    with connected() as client:
        return read_facts(client)


def read_facts(client: DockerClient) -> EngineFacts:
    """What the daemon says of itself. Raises StageFailedError."""
    with daemon_errors("telling what it is"):
        info = client.info()
        listed = client.api.images()
    tags = {str(tag) for each in listed for tag in each.get("RepoTags") or ()}
    runtimes = tuple(sorted(info.get("Runtimes") or {}))
    devices = [str(each.get("Source", "")) for each in info.get("DiscoveredDevices") or ()]
    return EngineFacts(
        version=str(info.get("ServerVersion")),
        storage_driver=str(info.get("Driver")),
        image_dirs=(Path(str(info.get("DockerRootDir"))), *_containerd_dirs(info)),
        images=tuple(sorted(tags & set(LOCAL_IMAGES.values()))),
        runtimes=runtimes,
        has_gpu_runtime="nvidia" in runtimes or "cdi" in devices,
        num_cpus=int(info.get("NCPU") or os.cpu_count() or 1),
        memory_bytes=int(info.get("MemTotal") or _machine_memory_bytes()),
        security_options=tuple(map(str, info.get("SecurityOptions") or ())),
    )


def _containerd_dirs(info: Mapping[str, Any]) -> tuple[Path, ...]:
    """Where images lie that the daemon leaves to containerd; empty where it keeps them itself."""
    status = [list(each) for each in info.get("DriverStatus") or ()]
    is_used = ["driver-type", _CONTAINERD_STORE] in status and CONTAINERD_DIR.is_dir()
    return (CONTAINERD_DIR,) if is_used else ()


def _machine_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
