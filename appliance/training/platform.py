"""What decides float bits beside the manifest: versions, devices, threads, instruction set.

Nothing is set here. The engine sets the environment before any library is imported; this module
only records what is in force, for the lock and the receipts.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "torch", "numpy", "lerobot", "av")
# What jax computes with on GPUs. torch brings most of them to machines without any, where they
# decide nothing.
GPU_PACKAGES = (
    "jax-cuda12-pjrt",
    "jax-cuda12-plugin",
    "nvidia-cublas-cu12",
    "nvidia-cuda-cupti-cu12",
    "nvidia-cuda-nvcc-cu12",
    "nvidia-cuda-nvrtc-cu12",
    "nvidia-cuda-runtime-cu12",
    "nvidia-cudnn-cu12",
    "nvidia-cufft-cu12",
    "nvidia-cufile-cu12",
    "nvidia-curand-cu12",
    "nvidia-cusolver-cu12",
    "nvidia-cusparse-cu12",
    "nvidia-cusparselt-cu12",
    "nvidia-nccl-cu12",
    "nvidia-nvjitlink-cu12",
    "nvidia-nvshmem-cu12",
    "nvidia-nvtx-cu12",
)
VARIABLES = (
    "XLA_FLAGS",
    "PJRT_NPROC",
    "JAX_PLATFORMS",
    "JAX_THREEFRY_PARTITIONABLE",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ATEN_CPU_CAPABILITY",
)
JAX_SETTINGS = (
    "enable_x64",
    "default_matmul_precision",
    "default_prng_impl",
    "threefry_partitionable",
)
CPU_LEVELS = (
    ("x86-64-v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    ("x86-64-v3", {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}),
    ("x86-64-v2", {"cx16", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
)


def describe_platform() -> dict[str, Any]:
    """Versions, devices and settings that decide the bits of a training run here.

    Imports jax and torch, and so starts jax's backend.
    """
    import jax
    import torch

    packages = (*PACKAGES, *(GPU_PACKAGES if jax.default_backend() == "gpu" else ()))
    return {
        "packages": {name: _version(name) for name in packages},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "threads": {"jax": _jax_threads(), "torch": torch.get_num_threads()},
        "cpu_max_isa": _flag("--xla_cpu_max_isa"),
        "cpu_level": cpu_level(_cpu_flags()),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "jax_settings": {name: _jax_setting(name) for name in JAX_SETTINGS},
        "environment": {name: os.environ.get(name) for name in VARIABLES},
    }


def cpu_level(flags: set[str]) -> str:
    """The highest x86-64 level whose features are all in ``flags``; x86-64-v1 without any."""
    required: set[str] = set()
    reached = "x86-64-v1"
    for name, features in reversed(CPU_LEVELS):
        required |= features
        if not required <= flags:
            break
        reached = name
    return reached


def _cpu_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def _flag(name: str) -> str | None:
    for word in os.environ.get("XLA_FLAGS", "").split():
        if word.startswith(name + "="):
            return word.partition("=")[2]
    return None


def _jax_setting(name: str) -> Any:
    import jax

    return getattr(jax.config, f"jax_{name}")


def _jax_threads() -> int:
    pinned = os.environ.get("PJRT_NPROC", "")
    return int(pinned) if pinned.isdecimal() else len(os.sched_getaffinity(0))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
