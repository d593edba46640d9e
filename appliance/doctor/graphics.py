"""Checks of what pictures need: Vulkan, EGL and their drivers' files, and one rendered frame."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from appliance.doctor.check import Finding, good, missing, note
from appliance.errors import SimulatorError
from appliance.simulator.frame import render_frame
from appliance.simulator.renderer import (
    DRIVER_VARIABLES,
    RendererHungError,
    advise_renderer,
    naming_variable,
    private_drivers,
)

ICD_FOLDERS = tuple(
    Path(folder, "vulkan", "icd.d") for folder in ("/etc", "/usr/share", "/usr/local/share")
)
EGL_FOLDERS = (Path("/etc/glvnd/egl_vendor.d"), Path("/usr/share/glvnd/egl_vendor.d"))
HUNG_FIX = f"update that driver, or name another one's ICD file in {DRIVER_VARIABLES[0]}"
SOFTWARE_FIX = "see the check gpu graphics; a private Mesa in the cache is taken before a GPU"

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
    named = naming_variable()
    if not files:
        where = f"named by {named}" if named else "in the system or the private cache"
        return missing(f"no Vulkan driver file {where}", advise_renderer())
    faults = [fault for path in files if (fault := _describe_icd_fault(path))]
    found = ", ".join(path.name for path in files)
    if len(faults) == len(files):
        return missing("; ".join(faults), advise_renderer())
    if faults:
        return note(f"{found}; {'; '.join(faults)}", "remove the file, or install its driver")
    return good(found)


def _icd_files() -> Iterator[Path]:
    named = naming_variable()
    if named is not None:
        parts = map(Path, os.environ[named].split(os.pathsep))
        yield from (part for part in parts if part.is_file())
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
    return None if is_findable(str(library)) else f"{path} names {library}, which is not found"


def look_at_frame() -> Finding:
    """One picture, rendered by SAPIEN in a process of its own."""
    if importlib.util.find_spec("sapien") is None:
        return missing("SAPIEN is not installed", "run `make setup`")
    try:
        frame = render_frame()
    except RendererHungError as error:
        return missing(str(error).partition(". ")[0], HUNG_FIX)
    except SimulatorError as error:
        return missing(str(error).split("\n", 1)[0], advise_renderer())
    found = f"{frame.device}, {frame.seconds:.1f} s"
    if not frame.is_gpu and shutil.which("nvidia-smi") is not None:
        return note(f"{found}: drawn in software, and this machine has a GPU", SOFTWARE_FIX)
    return good(found)


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


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def is_findable(name: str) -> bool:
    """Whether the loader's cache has it; a driver is not loaded, since a broken one may crash."""
    done = subprocess.run(
        [shutil.which("ldconfig") or "/sbin/ldconfig", "-p"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_LDCONFIG_TIMEOUT_S,
    )
    return any(line.split()[:1] == [name] for line in done.stdout.splitlines())
