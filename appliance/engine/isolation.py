"""What a stage's container may see, touch and use: one function of data, no daemon.

The run folder is the only place that can be written, apart from a /tmp in memory. Inputs are
mounted read-only, everything at the path it has on the host, so that a stage sees the same paths
whichever engine runs it. No network, no capabilities, no new privileges, read-only root. The
container runs as the caller (``container_user``), so that what it writes is the caller's. Nothing
that holds the signing key or lies beside it is ever mounted; a request that would show any of it is
refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.engine.gpus import VISIBLE_DEVICES, chosen_gpus
from appliance.engine.links import find_links_out, gather_whole_folders
from appliance.errors import RuntimeMissingError, StageFailedError

logger = logging.getLogger(__name__)

GIB = 1 << 30
RUN_LABEL = "plan-star-appliance.run"
STAGE_LABEL = "plan-star-appliance.stage"
READER_LABEL = "plan-star-appliance.reader"
ROOTLESS = "name=rootless"
_REMAPPED = "name=userns"
TMP = "/tmp"  # noqa: S108 (a file system of the container's own)
_SHARED_MEMORY_BYTES = GIB
_TMP_BYTES = 4 * GIB
_RESERVE_BYTES = GIB
_NOBODY = "65534:65534"
_MANY_MOUNTS = 100
_MAX_MOUNTS = 1000
# What every container runs with; a mount over one of these would replace it. The base of an image
# decides whether its Python is Debian's, in /usr, or one in /usr/local.
_IMAGE_PLACES = (
    *(
        f"{prefix}/{part}"
        for prefix in ("/opt/appliance", "/opt/robotwin", "/usr", "/usr/local")
        for part in ("bin", "lib/python3.11")
    ),
    *("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/sbin", "/usr/share", "/opt/vulkan"),
    *("/bin", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/sbin"),
    *("/dev", "/proc", "/run", "/sys", TMP),
)
# Where a container may look for what it runs with. A manifest may name something in there, as
# somebody's dataset in /usr/share; a link in a dataset must not lead there.
_IMAGE_ROOTS = (
    *("/opt/appliance", "/opt/robotwin", "/opt/vulkan", "/usr", "/etc", "/proc", "/sys"),
    *("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin"),
)
_GPU_CAPABILITIES = [["gpu", "compute", "utility", "graphics"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a container may use; ``cpus`` in cores, ``memory_bytes`` without swap on top."""

    memory_bytes: int
    cpus: float
    pids: int
    gpus: int


# For a look into an image: hashing its files takes one core, and little memory.
_READER_LIMITS = Limits(memory_bytes=2 * GIB, cpus=1.0, pids=1024, gpus=0)
READER_OUTPUT_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What of the host a container sees.

    ``run_dir`` is writable, ``inputs`` are not. Nothing of ``hidden`` (files, and folders with all
    that lies in them) is seen: none of the others may hold it or lie in it.
    """

    run_dir: Path
    inputs: tuple[Path, ...]
    hidden: tuple[Path, ...]


def memory_limit(asked_gib: float | None, machine_bytes: int) -> int:
    """The memory limit in bytes: as asked, or the machine's memory less a reserve."""
    if asked_gib is not None:
        return int(asked_gib * GIB)
    return max(machine_bytes - max(_RESERVE_BYTES, machine_bytes // 20), machine_bytes // 2)


def cpu_limit(asked: float | None, threads: int, machine_cpus: int) -> float:
    """The limit in cores: as asked, or one a thread, but no more than there are.

    An engine refuses a limit above its machine's cores. The number of threads decides float bits;
    the limit does not, fewer cores only take longer.
    """
    wanted = asked or float(threads)
    if wanted > machine_cpus:
        logger.info(
            "the container is limited to %d cores, all there are, not to %g", machine_cpus, wanted
        )
    return min(wanted, float(machine_cpus))


def find_mounts(exposure: Exposure) -> list[dict[str, Any]]:
    """Bind mounts in the engine's form: the run folder, and each input that is not inside it.

    Links that lead out of an input are followed, those in a folder they lead to as well; what a
    link leads to is mounted, that file or folder and nothing beside it. Raises StageFailedError
    when a mount would show something of what is hidden, would lie over what a container needs of
    its image, when a link leads in there, or when links lead to more places than an engine can
    mount.
    """
    run_dir = exposure.run_dir.resolve()
    hidden = [each.resolve() for each in exposure.hidden]
    _refuse(run_dir, run_dir, hidden)
    shown = _follow_links(exposure, hidden)
    if len(shown) > _MANY_MOUNTS:
        shown = gather_whole_folders(shown)
        for target, source in shown.items():
            _refuse(target, source, hidden)
    if len(shown) > _MAX_MOUNTS:
        raise _too_many_links(exposure)
    return [
        _mount(run_dir, run_dir, read_only=False),
        *(
            _mount(target, source, read_only=True)
            for target, source in sorted(shown.items())
            if not target.is_relative_to(run_dir)
            and not any(parent in shown for parent in target.parents)
        ),
    ]


def _follow_links(exposure: Exposure, hidden: Sequence[Path]) -> dict[Path, Path]:
    """What a container is to be shown read-only: where the bytes lie, by where it looks for them.

    Everything is checked before it is looked into.
    """
    shown: dict[Path, Path] = {}
    named = [place.resolve() for place in (exposure.run_dir, *exposure.inputs)]
    waiting = [(place, place) for place in named[1:]]
    num_folders = 0
    while waiting:
        target, source = waiting.pop()
        if target in shown:
            continue
        _refuse(target, source, hidden)
        if not any(target.is_relative_to(place) for place in named):
            _refuse_in_image(target)
        shown[target] = source
        if source.is_dir():
            num_folders += 1
            if num_folders > _MAX_MOUNTS:
                raise _too_many_links(exposure)
            waiting.extend(find_links_out(target, source))
    return shown


def _too_many_links(exposure: Exposure) -> StageFailedError:
    inputs = ", ".join(map(str, exposure.inputs))
    return StageFailedError(
        f"{inputs}: links in there lead to more than {_MAX_MOUNTS} places elsewhere, more than a"
        " container can be given. Copy the folder with its links followed (cp -rL), and name the"
        " copy in the manifest."
    )


def container_settings(
    exposure: Exposure,
    limits: Limits,
    environment: Mapping[str, str],
    labels: Mapping[str, str],
    *,
    user: str,
) -> dict[str, Any]:
    """Arguments of the SDK's ``create_host_config`` and ``create_container``, under those names."""
    settings: dict[str, Any] = {
        **_shut_in(limits),
        "mounts": find_mounts(exposure),
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


def container_user(security_options: Sequence[str]) -> str:
    """Who a container has to run as so that what it writes is the caller's.

    ``security_options`` are the engine's own (``SecurityOptions`` of its info). In a rootless one
    root is the caller, and every other id is one of the caller's subordinate ids. Raises
    RuntimeMissingError when the engine gives containers other ids than they have.
    """
    if ROOTLESS in security_options:
        return "0:0"
    if _REMAPPED in security_options:
        raise RuntimeMissingError(
            "The container engine gives users in containers other ids (userns-remap), so that no"
            " stage could write its run folder. Take userns-remap out of the engine's settings"
            " (/etc/docker/daemon.json), use a rootless engine, or use --engine host."
        )
    return f"{os.getuid()}:{os.getgid()}"


def reader_settings() -> dict[str, Any]:
    """As ``container_settings``, of a container that sees nothing and whose output is read after.

    The engine keeps the newest part of the output, at most ``READER_OUTPUT_BYTES``.
    """
    kept = {"max-size": str(READER_OUTPUT_BYTES), "max-file": "1"}
    return {
        "host": {**_shut_in(_READER_LIMITS), "log_config": {"Type": "json-file", "Config": kept}},
        "create": {"user": _NOBODY},
    }


def _shut_in(limits: Limits) -> dict[str, Any]:
    """What every container is denied, and its limits."""
    return {
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
    }


def _gpu_request(count: int) -> dict[str, Any]:
    """The first ``count`` GPUs of the caller's choice, or any where there was no choice.

    Raises RuntimeMissingError when the caller chose fewer.
    """
    chosen = chosen_gpus()
    if chosen is not None and len(chosen) < count:
        raise RuntimeMissingError(
            f"runtime.gpus: {count} asked for, and {VISIBLE_DEVICES}={os.environ[VISIBLE_DEVICES]}"
            f" leaves {len(chosen)} to this run. Name {count} in it, unset it to be given any, or"
            " lower runtime.gpus."
        )
    request: dict[str, Any] = {
        "Driver": "nvidia",
        "Capabilities": _GPU_CAPABILITIES,
        "Options": {},
        "Count": count if chosen is None else 0,
        "DeviceIDs": [] if chosen is None else chosen[:count],
    }
    return request


def _refuse(target: Path, source: Path, hidden: Sequence[Path]) -> None:
    """See that ``source`` may be shown at ``target``. Raises StageFailedError.

    It may not when it holds a hidden path, is one or lies in one (links are followed in both), nor
    where it would hide what runs in a container.
    """
    for secret in hidden:
        if secret.is_relative_to(source) or source.is_relative_to(secret):
            raise StageFailedError(
                f"{source}: would be mounted in a stage's container, and the signing key or its"
                f" passphrase lies in {secret}. Put one of them elsewhere (--run-dir, --key-dir,"
                " --passphrase-file, dataset.root); if the manifest or a link in the dataset names"
                " it, ask who wrote that."
            )
    for own in _IMAGE_PLACES:
        if Path(own).is_relative_to(target):
            raise StageFailedError(
                f"{target}: would be mounted in a stage's container, over the image's own {own}."
                " Put what is needed from there elsewhere, or, if a link in the dataset leads"
                " there, replace the link by what it leads to."
            )


def _refuse_in_image(target: Path) -> None:
    """See that a link leads to none of the image's own places. Raises StageFailedError."""
    for own in _IMAGE_ROOTS:
        if target.is_relative_to(own):
            raise StageFailedError(
                f"{target}: a link in what the manifest names leads there, and a stage's container"
                f" has its image's own {own}. Remove the link, or replace it by what it leads to;"
                " if it is not yours, ask who made it."
            )


def _mount(target: Path, source: Path, *, read_only: bool) -> dict[str, Any]:
    return {"Target": str(target), "Source": str(source), "Type": "bind", "ReadOnly": read_only}
