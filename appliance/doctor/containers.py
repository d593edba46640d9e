"""Checks of the container engine and its way to a GPU."""

from __future__ import annotations

import importlib.util

from appliance.doctor.check import Finding, good, missing, note
from appliance.errors import ApplianceError

GPU_RUNTIME_FIX = "install nvidia-container-toolkit and run `nvidia-ctk runtime configure`"


def look_at_engine() -> Finding:
    """Whether the daemon answers."""
    if importlib.util.find_spec("docker") is None:
        return missing("the Docker SDK is not installed", "install the extra `run`")
    from appliance.engine.probe import probe_engine

    try:
        facts = probe_engine()
    except ApplianceError as error:
        return missing(
            str(error).split(" Start it", 1)[0],
            "apt-get install docker.io, start it (systemctl start docker), join the group docker",
        )
    return good(f"Docker {facts.version}, {facts.storage_driver}")


def look_at_gpu_runtime() -> Finding:
    """Whether containers can be given a GPU."""
    if importlib.util.find_spec("docker") is None:
        return note("unknown without the Docker SDK")
    from appliance.engine.probe import probe_engine

    try:
        facts = probe_engine()
    except ApplianceError:
        return note("unknown: no container engine answers")
    if facts.has_gpu_runtime:
        return good(f"runtimes: {', '.join(facts.runtimes)}")
    return note("the engine has no GPU runtime; needed for runtime.gpus only", GPU_RUNTIME_FIX)
