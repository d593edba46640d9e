"""Checks of the container engine, of room for its images, and of its way to a GPU."""

from __future__ import annotations

import importlib.util
import shutil
from typing import TYPE_CHECKING

from appliance.doctor.check import Finding, good, missing, note
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.engine.probe import EngineFacts

GIB = 2**30
BUILD_DISK_BYTES = 25 * GIB
GPU_HOOK = "nvidia-container-runtime-hook"  # with it dockerd hands out GPUs without a runtime
GPU_RUNTIME_FIX = "install nvidia-container-toolkit and run `nvidia-ctk runtime configure`"


def look_at_engine() -> Finding:
    """Whether the daemon answers. Raises RuntimeMissingError when it cannot be used as it is."""
    try:
        facts = _probe()
    except ImportError:
        return missing("the Docker SDK is not installed", "install the extra `run`")
    except ApplianceError as error:
        return missing(
            str(error).split(" Start it", 1)[0],
            "apt-get install docker.io, start it (systemctl start docker), join the group docker",
        )
    from appliance.engine.isolation import ROOTLESS, container_user

    container_user(facts.security_options)
    mode = ", rootless" if ROOTLESS in facts.security_options else ""
    return good(f"Docker {facts.version}, {facts.storage_driver}{mode}")


def look_at_image_disk() -> Finding:
    """Room for building an image where the daemon keeps images: 9.4 GB, and what building takes."""
    try:
        facts = _probe()
    except (ImportError, ApplianceError):
        return note("unknown: no container engine answers")
    seen = [place for place in facts.image_dirs if place.is_dir()]
    if not seen:
        return note(f"unknown: the engine's {facts.image_dirs[0]} cannot be seen from here")
    free, place = min((shutil.disk_usage(place).free, place) for place in seen)
    found = f"{free / GIB:.1f} GiB free at {place}"
    if free >= BUILD_DISK_BYTES:
        return good(found)
    fix = f"free {BUILD_DISK_BYTES // GIB} GiB there, or give the engine another data-root"
    if facts.images:
        return note(f"{found}; {', '.join(facts.images)} is there, another needs more", fix)
    return missing(f"{found}, too little to build an image", fix)


def look_at_gpu_runtime() -> Finding:
    """Whether containers can be given a GPU."""
    try:
        facts = _probe()
    except (ImportError, ApplianceError):
        return note("unknown: no container engine answers")
    if facts.has_gpu_runtime:
        return good(f"runtimes: {', '.join(facts.runtimes)}")
    if shutil.which(GPU_HOOK) is not None:
        return good(GPU_HOOK)
    return missing("the engine has no GPU runtime; needed for runtime.gpus only", GPU_RUNTIME_FIX)


def _probe() -> EngineFacts:
    """What the daemon is. Raises ImportError without the SDK, ApplianceError without an answer."""
    if importlib.util.find_spec("docker") is None:
        raise ImportError("docker")
    from appliance.engine.probe import probe_engine

    return probe_engine()
