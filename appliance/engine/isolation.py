"""What a stage's container may see, touch and use: one function of data, no daemon.

The run folder is the only place that can be written, apart from a /tmp in memory. Inputs are
mounted read-only, everything at the path it has on the host, so that a stage sees the same paths
whichever engine runs it. No network, no capabilities, no new privileges, read-only root. The
container runs as the caller, so that what it writes is the caller's. The signing key's folder is
never mounted; a request that would expose it is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import StageFailedError

GIB = 1 << 30
RUN_LABEL = "plan-star-appliance.run"
STAGE_LABEL = "plan-star-appliance.stage"
TMP = "/tmp"  # noqa: S108 (a file system of the container's own)
_SHARED_MEMORY_BYTES = GIB
_TMP_BYTES = 4 * GIB
_RESERVE_BYTES = GIB
_GPU_CAPABILITIES = [["gpu", "compute", "utility", "graphics"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a container may use; ``cpus`` in cores, ``memory_bytes`` without swap on top."""

    memory_bytes: int
    cpus: float
    pids: int
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What of the host a container sees.

    ``run_dir`` is writable, ``inputs`` are not; ``hidden`` must be below none of them.
    """

    run_dir: Path
    inputs: tuple[Path, ...]
    hidden: tuple[Path, ...]


def memory_limit(asked_gib: float | None, machine_bytes: int) -> int:
    """The memory limit in bytes: as asked, or the machine's memory less a reserve."""
    if asked_gib is not None:
        return int(asked_gib * GIB)
    return max(machine_bytes - max(_RESERVE_BYTES, machine_bytes // 20), machine_bytes // 2)


def find_mounts(exposure: Exposure) -> list[dict[str, Any]]:
    """Bind mounts in the engine's form: the run folder, and each input that is not inside it.

    Links inside an input folder that lead out of it are followed: their targets' folders are
    mounted too. Raises StageFailedError when a mount would show a hidden folder.
    """
    run_dir = exposure.run_dir.resolve()
    wanted = {place.resolve() for place in exposure.inputs}
    wanted |= {target for place in tuple(wanted) for target in _outside_targets(place)}
    read_only = sorted(
        place
        for place in wanted
        if not place.is_relative_to(run_dir)
        and not any(place != other and place.is_relative_to(other) for other in wanted)
    )
    for place in (run_dir, *read_only):
        for secret in exposure.hidden:
            if secret.resolve().is_relative_to(place):
                raise StageFailedError(
                    f"{place}: would be mounted in a stage's container, and the signing key lies in"
                    f" {secret}. Put one of them elsewhere (--run-dir, --key-dir, dataset.root)."
                )
    return [
        _mount(run_dir, read_only=False),
        *(_mount(place, read_only=True) for place in read_only),
    ]


def container_settings(
    exposure: Exposure, limits: Limits, environment: Mapping[str, str], labels: Mapping[str, str]
) -> dict[str, Any]:
    """Arguments of the SDK's ``create_host_config`` and ``create_container``, under those names."""
    user = f"{os.getuid()}:{os.getgid()}"
    settings: dict[str, Any] = {
        "mounts": find_mounts(exposure),
        "network_mode": "none",
        "read_only": True,
        "tmpfs": {TMP: f"rw,nosuid,nodev,mode=1777,size={min(_TMP_BYTES, limits.memory_bytes)}"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "mem_limit": limits.memory_bytes,
        "memswap_limit": limits.memory_bytes,
        "shm_size": min(_SHARED_MEMORY_BYTES, limits.memory_bytes),
        "nano_cpus": int(limits.cpus * 1e9),
        "pids_limit": limits.pids,
        "init": True,
        "log_config": {"Type": "none", "Config": {}},
    }
    if limits.gpus:
        settings["device_requests"] = [_gpu_request(limits.gpus)]
        environment = {**environment, "NVIDIA_DRIVER_CAPABILITIES": "all"}
    return {
        "host": settings,
        "create": {
            "user": user,
            # Processes that train together meet at the name of their machine (Gloo resolves it),
            # and without a network the engine writes no other name than this into /etc/hosts.
            "hostname": "localhost",
            "environment": dict(environment),
            "labels": dict(labels),
            "working_dir": TMP,
        },
    }


def _gpu_request(count: int) -> dict[str, Any]:
    """Those of CUDA_VISIBLE_DEVICES if the caller chose some, else any ``count`` GPUs."""
    chosen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    request: dict[str, Any] = {
        "Driver": "nvidia",
        "Capabilities": _GPU_CAPABILITIES,
        "Options": {},
        "Count": 0 if chosen else count,
        "DeviceIDs": chosen[:count],
    }
    return request


def _mount(place: Path, *, read_only: bool) -> dict[str, Any]:
    return {"Target": str(place), "Source": str(place), "Type": "bind", "ReadOnly": read_only}


def _outside_targets(place: Path) -> Sequence[Path]:
    """Folders that links inside ``place`` lead to, outside of it."""
    if not place.is_dir():
        return ()
    targets = {
        link.resolve().parent
        for link in place.rglob("*")
        if link.is_symlink() and not link.resolve().is_relative_to(place)
    }
    return sorted(target for target in targets if target.is_dir())
