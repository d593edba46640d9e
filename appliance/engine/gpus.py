"""The NVIDIA GPUs of this machine or container, as ``nvidia-smi`` names them.

No CUDA library is loaded, so that asking is safe before a stage starts. A GPU that is cut up (MIG)
counts as its parts.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.errors import RuntimeMissingError

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
FIELDS = ("index", "uuid", "name", "driver_version", "memory.total", "mig.mode.current")
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_TIMEOUT_S = 30
_SHOWN_CHARACTERS = 150
_LISTED_GPU = re.compile(r"GPU \d+: .*\(UUID: (GPU-[^)]+)\)")
_LISTED_PART = re.compile(r"\s+(MIG \S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)]+)\)")


class GpuMissingError(RuntimeMissingError):
    """No GPU can be had here; ``found`` says what was seen, ``fix`` what to do about it."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(f"{found[0].upper()}{found[1:]}. {fix[0].upper()}{fix[1:]}.")
        self.found = found
        self.fix = fix


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, or one part of a GPU; ``memory`` is the whole GPU's, text with its unit."""

    index: str
    uuid: str
    name: str
    driver: str
    memory: str


def read_gpus() -> tuple[Gpu, ...]:
    """Every GPU the driver shows, at least one, in its own order. Raises GpuMissingError."""
    command = shutil.which("nvidia-smi")
    if command is None:
        if _DRIVER_FILE.exists():
            raise GpuMissingError(
                "a driver without nvidia-smi",
                "give the container the utility capability (NVIDIA_DRIVER_CAPABILITIES=all)",
            )
        raise GpuMissingError(
            "no NVIDIA driver: nvidia-smi is not there",
            "install the driver, and for containers NVIDIA's container toolkit, or use the CPU"
            " (runtime.gpus: 0)",
        )
    lines = _ask(command, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader")
    rows = [[part.strip() for part in line.split(",")] for line in lines]
    if any(len(row) != len(FIELDS) for row in rows):
        raise _unusable(lines[0])
    parts = _read_parts(command) if any(row[-1] == "Enabled" for row in rows) else {}
    found: list[Gpu] = []
    for index, uuid, name, driver, memory, _ in rows:
        gpu = Gpu(index=index, uuid=uuid, name=name, driver=driver, memory=memory)
        found += [
            replace(gpu, index=f"{index}:{part}", uuid=part_uuid, name=f"{name} {profile}")
            for profile, part, part_uuid in parts.get(uuid, ())
        ] or [gpu]
    return tuple(found)


def chosen_gpus() -> list[str] | None:
    """The GPUs (numbers or UUIDs) the caller chose with CUDA_VISIBLE_DEVICES; None: no choice made.

    CUDA counts names up to the first that is none: "" and "-1" choose no GPU at all (CUDA C++
    Programming Guide, "CUDA Environment Variables").
    """
    choice = os.environ.get(VISIBLE_DEVICES)
    if choice is None:
        return None
    names = (name.strip() for name in choice.split(","))
    shown = itertools.takewhile(lambda name: name and not name.startswith("-"), names)
    return list(dict.fromkeys(shown))


def handed_out(gpus: Sequence[Gpu], count: int) -> tuple[Gpu, ...]:
    """Those of ``gpus`` that a stage asking for ``count`` is given, in the driver's order.

    As the container engine chooses: the first of ``chosen_gpus``, or of all. Raises GpuMissingError
    when there are fewer.
    """
    named = chosen_gpus()
    if named is None:
        given = tuple(gpus[:count])
    else:
        given = tuple(gpu for gpu in gpus if any(_is_named(gpu, name) for name in named[:count]))
    if len(given) < count:
        set_to = "" if named is None else f", and {VISIBLE_DEVICES}={os.environ[VISIBLE_DEVICES]}"
        raise GpuMissingError(
            f"runtime.gpus asks for {count} and can have {len(given)}: nvidia-smi shows"
            f" {len(gpus)}{set_to}",
            f"lower runtime.gpus{'' if named is None else f', or correct {VISIBLE_DEVICES}'}",
        )
    return given


def _is_named(gpu: Gpu, name: str) -> bool:
    return gpu.index == name or gpu.uuid.startswith(name)


def _ask(command: str, *options: str) -> list[str]:
    """What ``nvidia-smi`` says, by line; at least one."""
    try:
        done = subprocess.run(
            [command, *options], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise GpuMissingError("nvidia-smi hangs", "restart the driver, or the machine") from error
    except OSError as error:
        raise _unusable(f"{command} cannot be run ({error.strerror})") from error
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not lines:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no GPU"]
        raise _unusable(said[0])
    return lines


def _unusable(said: str) -> GpuMissingError:
    return GpuMissingError(
        f"nvidia-smi: {said[:_SHOWN_CHARACTERS]}", "see that driver and kernel module agree"
    )


def _read_parts(command: str) -> Mapping[str, list[tuple[str, str, str]]]:
    """The parts of each GPU that is cut up, by its UUID: profile, number, and their own UUID."""

    def walk() -> Iterator[tuple[str, tuple[str, str, str]]]:
        whole = ""
        for line in _ask(command, "-L"):
            if (gpu := _LISTED_GPU.match(line)) is not None:
                whole = gpu[1]
            elif (part := _LISTED_PART.match(line)) is not None:
                yield whole, (part[1], part[2], part[3])

    found: dict[str, list[tuple[str, str, str]]] = {}
    for whole, part in walk():
        found.setdefault(whole, []).append(part)
    return found
