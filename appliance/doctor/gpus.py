"""Checks of an NVIDIA GPU: its driver, the driver's part that draws, and JAX's plugin for it.

Stages with ``runtime.gpus`` run in containers, which bring everything but the driver.
"""

from __future__ import annotations

import importlib.metadata

from appliance.doctor.check import Finding, good, missing, note
from appliance.doctor.graphics import is_findable
from appliance.engine.gpus import GpuMissingError, read_gpus

DRAWING_LIBRARIES = ("libGLX_nvidia.so.0", "libEGL_nvidia.so.0")
JAX_PLUGINS = ("jax-cuda12-plugin", "jax-cuda12-pjrt")


def look_at_driver() -> Finding:
    """The NVIDIA driver and the GPUs it shows."""
    try:
        gpus = read_gpus()
    except GpuMissingError as error:
        return missing(error.found, error.fix)
    return good("; ".join(f"{gpu.name}, driver {gpu.driver}, {gpu.memory}" for gpu in gpus))


def look_at_graphics() -> Finding:
    """The driver's libraries that draw without a screen; containers are given the host's."""
    absent = [name for name in DRAWING_LIBRARIES if not is_findable(name)]
    if absent:
        return missing(
            f"not there: {', '.join(absent)}",
            "install the driver's graphics libraries (on Debian libnvidia-gl or"
            " nvidia-driver-libs); in a container NVIDIA_DRIVER_CAPABILITIES=all (MIG draws"
            " nothing)",
        )
    return good(", ".join(DRAWING_LIBRARIES))


def look_at_jax_plugin() -> Finding:
    """JAX's CUDA plugin in this Python: without it JAX sees the processor only."""
    versions = []
    for name in ("jax", *JAX_PLUGINS):
        try:
            versions.append(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            return note(
                f"no {name} here; needed for `serve --gpus`, `train --gpus` and `evaluate` of a"
                " manifest with GPUs, not for containers, which bring it",
                "install docker/requirements/cuda.txt",
            )
    if len(set(versions)) > 1:
        return note(
            f"jax {versions[0]} and its CUDA plugin {versions[-1]} are of different versions",
            "install docker/requirements/cuda.txt",
        )
    return good(f"JAX's CUDA plugin {versions[0]}")
