"""A stand-in for NVIDIA's ``nvidia-smi``: a real program, first on the path of who calls it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

H100 = "NVIDIA H100 80GB HBM3"
A100 = "NVIDIA A100-SXM4-40GB"


def write_nvidia_smi(folder: Path, script: str) -> None:
    """Put a program of this name and shell text into ``folder``."""
    folder.mkdir(exist_ok=True)
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def list_gpus(*names: str, driver: str = "570.86.15", mig: str = "[N/A]") -> str:
    """Shell text that answers as ``nvidia-smi`` does with these GPUs, and to nothing else."""
    rows = [
        f"echo '{number}, GPU-{number}000, {name}, {driver}, 81559 MiB, {mig}'"
        for number, name in enumerate(names)
    ]
    asked = "--query-gpu=index,uuid,name,driver_version,memory.total,mig.mode.current"
    return "\n".join(
        [f'[ "$1 $2" = "{asked} --format=csv,noheader" ] || {{ echo "odd: $*"; exit 2; }}', *rows]
    )


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs in ``folder`` be found before the system's."""
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
