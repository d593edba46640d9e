"""Checks of what pictures need: Vulkan, EGL and their drivers' files, and one rendered frame."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from appliance.doctor.check import Finding, good, missing, note
from appliance.engine.gpus import GpuMissingError, read_gpus
from appliance.errors import ApplianceError
from appliance.simulator.frame import render_frame
from appliance.simulator.renderer import DRIVER_VARIABLES, FETCH_COMMAND, private_drivers

ICD_FOLDERS = tuple(
    Path(folder, "vulkan", "icd.d") for folder in ("/etc", "/usr/share", "/usr/local/share")
)
EGL_FOLDERS = (Path("/etc/glvnd/egl_vendor.d"), Path("/usr/share/glvnd/egl_vendor.d"))
GPU_LIBRARIES = "apt-get install libvulkan1 libegl1 libglvnd0 libxext6, and the host's libnvidia-gl"

_LDCONFIG_TIMEOUT_S = 30


def look_at_vulkan_loader() -> Finding:
    """The loader of the system, or the one in SAPIEN's wheel."""
    if _loads("libvulkan.so.1"):
        return good("libvulkan.so.1")
    found = importlib.util.find_spec("sapien")
    for folder in (found.submodule_search_locations if found else None) or ():
        if any(Path(folder, "vulkan_library").glob("libvulkan.so*")):
            return good("SAPIEN's own (the system has none)")
    return missing("no libvulkan.so.1", "apt-get install libvulkan1")


def look_at_vulkan_drivers() -> Finding:
    """The driver files the loader will read, and whether the libraries they name are there."""
    files = list(_icd_files())
    named = [name for name in DRIVER_VARIABLES if os.environ.get(name)]
    if not files:
        where = f"named by {named[0]}" if named else "in the system or the private cache"
        return missing(f"no Vulkan driver file {where}", f"run `{FETCH_COMMAND}`")
    faults = [fault for path in files if (fault := _describe_icd_fault(path))]
    found = ", ".join(path.name for path in files)
    if len(faults) == len(files):
        return missing("; ".join(faults), f"run `{FETCH_COMMAND}`")
    if faults:
        return note(f"{found}; {'; '.join(faults)}", "remove the file, or install its driver")
    return good(found)


def _icd_files() -> Iterator[Path]:
    named = next((os.environ[name] for name in DRIVER_VARIABLES if os.environ.get(name)), None)
    if named is not None:
        yield from (Path(part) for part in named.split(os.pathsep) if Path(part).is_file())
        return
    yield from private_drivers()
    for folder in ICD_FOLDERS:
        yield from sorted(folder.glob("*.json"))


def _describe_icd_fault(path: Path) -> str | None:
    try:
        library = json.loads(path.read_bytes())["ICD"]["library_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path} cannot be read"
    if "/" in str(library):
        place = Path(library) if Path(library).is_absolute() else path.parent / library
        return None if place.exists() else f"{path} names {library}, which is not there"
    return None if _is_findable(str(library)) else f"{path} names {library}, which is not found"


def look_at_frame() -> Finding:
    """One picture, rendered by SAPIEN in a process of its own."""
    if importlib.util.find_spec("sapien") is None:
        return missing("SAPIEN is not installed", "run `make setup`")
    try:
        frame = render_frame()
    except ApplianceError as error:
        return missing(str(error).split("\n", 1)[0], f"run `{FETCH_COMMAND}`")
    return good(f"{frame.device}, {frame.seconds:.1f} s")


def look_at_gpu() -> Finding:
    """The NVIDIA driver and the GPUs it shows."""
    try:
        gpus = read_gpus()
    except GpuMissingError as error:
        return missing(error.found, error.fix)
    return good("; ".join(f"{gpu.name}, driver {gpu.driver}, {gpu.memory}" for gpu in gpus))


def look_at_gpu_graphics() -> Finding:
    """What headless rendering on an NVIDIA GPU needs beside the driver."""
    absent = [
        name
        for name, there in (
            ("libXext.so.6", _loads("libXext.so.6")),
            ("libEGL.so.1", _loads("libEGL.so.1")),
            ("nvidia_icd.json", _has_file(ICD_FOLDERS, "nvidia_icd*.json")),
            ("10_nvidia.json of EGL", _has_file(EGL_FOLDERS, "*nvidia*.json")),
        )
        if not there
    ]
    if absent:
        return missing(
            f"not there: {', '.join(absent)}",
            f"{GPU_LIBRARIES}; in a container NVIDIA_DRIVER_CAPABILITIES=all (MIG has no Vulkan)",
        )
    return good("libXext, EGL, and the driver's files for both")


def look_at_libxext() -> Finding:
    """NVIDIA's libraries need it, though nothing is shown: without it only llvmpipe is found."""
    if _loads("libXext.so.6"):
        return good("libXext.so.6")
    return note("no libXext.so.6; needed for a GPU only", "apt-get install libxext6")


def look_at_egl() -> Finding:
    """The EGL loader and its vendors' files."""
    vendors = [path.name for folder in EGL_FOLDERS for path in sorted(folder.glob("*.json"))]
    if not _loads("libEGL.so.1"):
        return note("no libEGL.so.1; needed for a GPU only", "apt-get install libegl1")
    return good(f"libEGL.so.1 ({', '.join(vendors) or 'no vendor file'})")


def _has_file(folders: Sequence[Path], pattern: str) -> bool:
    return any(True for folder in folders for _ in folder.glob(pattern))


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _is_findable(name: str) -> bool:
    """Whether the loader's cache has it; a driver is not loaded, since a broken one may crash."""
    done = subprocess.run(
        [shutil.which("ldconfig") or "/sbin/ldconfig", "-p"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_LDCONFIG_TIMEOUT_S,
    )
    return any(line.split()[:1] == [name] for line in done.stdout.splitlines())
