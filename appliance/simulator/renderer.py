"""Finds a Vulkan driver good enough for SAPIEN, on a machine with or without a GPU.

Looked at in this order: a driver named by ``VK_DRIVER_FILES`` or ``VK_ICD_FILENAMES``; the private
Mesa that :mod:`appliance.simulator.mesa` fetched; the system's drivers. Good enough is a GPU, or
Mesa's lavapipe of at least 24.3 (Debian 12's own 22.3 lacks what SAPIEN needs).
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import SimulatorError
from appliance.simulator.cache import cache_root
from appliance.simulator.libraries import LIBRARY_FOLDER, load_private_libraries

LEAST_MESA = (24, 3)
DRIVER_VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
MESA_FOLDER = "mesa"
ICD_NAME = "lvp_icd.json"
FETCH_COMMAND = f"{shlex.quote(sys.executable)} -m appliance.simulator.mesa"

_PROBE_TIMEOUT_S = 60
_MESA_VERSION = re.compile(r"Mesa (\d+)\.(\d+)")

logger = logging.getLogger(__name__)


class RendererHungError(SimulatorError):
    """A driver gave no answer in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A Vulkan device: kind (``cpu``, ``discrete``, ...), name, driver, and its version text."""

    kind: str
    name: str
    driver: str
    driver_info: str

    def __str__(self) -> str:
        return f"{self.name}, {self.driver_info or self.driver}"

    @property
    def good_enough(self) -> bool:
        """Whether SAPIEN can render with it."""
        if self.kind != "cpu":
            return self.kind in ("discrete", "integrated", "virtual")
        version = _MESA_VERSION.match(self.driver_info)
        return version is not None and (int(version[1]), int(version[2])) >= LEAST_MESA


@dataclass(frozen=True, slots=True, kw_only=True)
class Renderer:
    """A driver to render with: its device, where it came from, and its ICD file if it is named."""

    device: Device
    source: str
    icd: str | None

    def prepare_process(self) -> None:
        """Make this process render with the driver; to be called before SAPIEN is imported."""
        if self.icd is None:
            return
        os.environ.update(dict.fromkeys(DRIVER_VARIABLES, self.icd))
        libraries = private_libraries(self.icd)
        if libraries is not None:
            load_private_libraries(libraries)


def find_renderer() -> Renderer:
    """The driver to render with. Costs a short child process, once for each environment.

    Raises SimulatorError that names what was found instead, and the command that gets a good one.
    """
    variable = naming_variable()
    named = None if variable is None else os.environ[variable]
    return _find_renderer(named, str(cache_root()))


def private_drivers() -> list[Path]:
    """ICD files of the private Mesas in the cache, newest version first."""
    found = (cache_root() / MESA_FOLDER).glob(f"*/{ICD_NAME}")
    return sorted(found, key=lambda path: _version_key(path.parent.name), reverse=True)


def private_libraries(icd: str) -> Path | None:
    """The folder of shared libraries beside an ICD file of ours; None for any other's."""
    folder = Path(icd).parent / LIBRARY_FOLDER
    return folder if Path(icd).name == ICD_NAME and folder.is_dir() else None


def list_devices(icd: str | None) -> list[Device]:
    """The devices a fresh process sees with the driver ``icd`` (None: the system's drivers).

    Raises RendererHungError when the driver does not answer.
    """
    environment = dict(os.environ)
    for name in DRIVER_VARIABLES:
        environment.pop(name, None)
        if icd is not None:
            environment[name] = icd
    libraries = private_libraries(icd) if icd is not None else None
    if libraries is not None:
        environment["LD_LIBRARY_PATH"] = str(libraries)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "appliance.simulator.vulkan"],
            env=environment,
            capture_output=True,
            check=False,
            timeout=_PROBE_TIMEOUT_S,
        )
        listed = json.loads(done.stdout) if done.returncode == 0 else []
    except subprocess.TimeoutExpired as error:
        raise RendererHungError(f"hung, no answer within {_PROBE_TIMEOUT_S} s") from error
    except ValueError:
        listed = []
    return [Device(**device) for device in listed]


def forget_renderers() -> None:
    """Look again at the next :func:`find_renderer`."""
    _find_renderer.cache_clear()


@functools.cache
def _find_renderer(named: str | None, _cache: str) -> Renderer:
    """See :func:`find_renderer`; remembered for each environment."""
    seen: list[str] = []
    for source, icd in _candidates(named):
        try:
            devices = list_devices(icd)
        except RendererHungError as error:
            seen.append(f"{source}: {error}")
            continue
        for device in devices:
            if device.good_enough:
                logger.info("rendering with %s (%s)", device, source)
                return Renderer(device=device, source=source, icd=icd)
        seen.append(f"{source}: {'; '.join(map(str, devices)) or 'no device'}")
    raise SimulatorError(
        f"No rendering device for SAPIEN: it needs a GPU's Vulkan driver or Mesa's lavapipe"
        f" {'.'.join(map(str, LEAST_MESA))} or newer. Found: {'. '.join(seen)}."
        f" {_first_upper(advise_renderer())}."
    )


def naming_variable() -> str | None:
    """The variable by which the user named a driver; None when none is named."""
    return next((name for name in DRIVER_VARIABLES if os.environ.get(name)), None)


def advise_renderer() -> str:
    """What gets a good renderer here; a private Mesa is not looked at where a driver is named."""
    variable = naming_variable()
    if variable is not None:
        return f"`unset {variable}`, or name a working driver's ICD file in it"
    return (
        f"run `{FETCH_COMMAND}` to fetch a private Mesa, or name a driver's ICD file in"
        f" {DRIVER_VARIABLES[0]}"
    )


def _first_upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _candidates(named: str | None) -> list[tuple[str, str | None]]:
    """Where to look; a driver the user named is the only candidate then."""
    if named is not None:
        return [(f"driver named by the environment, {named}", named)]
    private = [(f"private Mesa {path.parent.name}", str(path)) for path in private_drivers()]
    return [*private, ("system drivers", None)]


def _version_key(text: str) -> list[int]:
    """The numbers in a version, for ordering."""
    return [int(number) for number in re.findall(r"\d+", text)]
