"""What the container engine of this machine is, for whoever wants to know before using it."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from appliance.engine.daemon import connected, daemon_errors
from appliance.errors import RuntimeMissingError

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
_KNOCK_TIMEOUT_S = 5
_UNIX = "unix://"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """The daemon's version, what it stores in, and whether containers can be given GPUs."""

    version: str
    storage_driver: str
    runtimes: tuple[str, ...]
    has_gpu_runtime: bool


def probe_engine() -> EngineFacts:
    """Ask the daemon. Raises RuntimeMissingError when it does not answer, StageFailedError."""
    _knock(os.environ.get("DOCKER_HOST") or DEFAULT_SOCKET)
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


def _knock(host: str) -> None:
    """See that somebody listens at a local socket; the SDK would leave its own one open."""
    if not host.startswith(_UNIX):
        return
    with socket.socket(socket.AF_UNIX) as knock:
        knock.settimeout(_KNOCK_TIMEOUT_S)
        try:
            knock.connect(host.removeprefix(_UNIX))
        except OSError as error:
            raise RuntimeMissingError(
                f"No container engine at {host} ({error.strerror or error}). Start it."
            ) from error
