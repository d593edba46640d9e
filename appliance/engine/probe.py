"""What the container engine of this machine is, for whoever wants to know before using it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from appliance.engine.daemon import LOCAL_IMAGES, connected, daemon_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """The daemon's version, how and where it stores images, and which of ours it has.

    ``root_dir`` is a path of the daemon's machine; ``has_gpu_runtime``: containers can be given
    GPUs.
    """

    version: str
    storage_driver: str
    root_dir: Path
    images: tuple[str, ...]
    runtimes: tuple[str, ...]
    has_gpu_runtime: bool


def probe_engine() -> EngineFacts:
    """Ask the daemon. Raises RuntimeMissingError when it does not answer, StageFailedError."""
    with connected() as client, daemon_errors("telling what it is"):
        info = client.info()
        listed = client.api.images()
    tags = {str(tag) for each in listed for tag in each.get("RepoTags") or ()}
    runtimes = tuple(sorted(info.get("Runtimes") or {}))
    devices = [str(each.get("Source", "")) for each in info.get("DiscoveredDevices") or ()]
    return EngineFacts(
        version=str(info.get("ServerVersion")),
        storage_driver=str(info.get("Driver")),
        root_dir=Path(str(info.get("DockerRootDir"))),
        images=tuple(sorted(tags & set(LOCAL_IMAGES.values()))),
        runtimes=runtimes,
        has_gpu_runtime="nvidia" in runtimes or "cdi" in devices,
    )
