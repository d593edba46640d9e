"""What the container engine of this machine is, for whoever wants to know before using it."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.engine.daemon import connected, daemon_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """The daemon's version, what it stores in, and whether containers can be given GPUs."""

    version: str
    storage_driver: str
    runtimes: tuple[str, ...]
    has_gpu_runtime: bool


def probe_engine() -> EngineFacts:
    """Ask the daemon. Raises RuntimeMissingError when it does not answer, StageFailedError."""
    with connected() as client, daemon_errors("telling what it is"):
        info = client.info()
    runtimes = tuple(sorted(info.get("Runtimes") or {}))
    devices = [str(each.get("Source", "")) for each in info.get("DiscoveredDevices") or ()]
    return EngineFacts(
        version=str(info.get("ServerVersion")),
        storage_driver=str(info.get("Driver")),
        runtimes=runtimes,
        has_gpu_runtime="nvidia" in runtimes or "cdi" in devices,
    )
