"""The examination: every check in order, each one's failure a finding and never the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from appliance.doctor import containers, gpus, graphics, machine
from appliance.doctor.check import NEEDS, Check, Finding, Purpose, Result, Status, missing
from appliance.errors import ApplianceError

DEFECT_FIX = "look at the message; the check itself failed"


def list_checks(*, run_dir: Path, key_dir: Path | None) -> tuple[Check, ...]:
    """All checks, in the order they are shown."""

    def check(name: str, look: Callable[[], Finding], *needed_for: Purpose) -> Check:
        return Check(name=name, needed_for=frozenset(needed_for), look=look)

    return (
        check("python", machine.look_at_python, Purpose.VERIFY),
        check("processor", machine.look_at_processor, Purpose.RUN),
        check("memory", machine.look_at_memory, Purpose.RUN, Purpose.DOCKER),
        check("disk", machine.look_at_disk(run_dir), Purpose.RUN, Purpose.DOCKER),
        check("clock", machine.look_at_clock, Purpose.VERIFY),
        check("signing key", machine.look_at_key(key_dir), Purpose.RUN, Purpose.DOCKER),
        check("packages", machine.look_at_packages, Purpose.RUN),
        check("vulkan loader", graphics.look_at_vulkan_loader, Purpose.RUN),
        check("vulkan drivers", graphics.look_at_vulkan_drivers, Purpose.RUN),
        check("libXext", graphics.look_at_libxext),
        check("egl", graphics.look_at_egl),
        check("one frame", graphics.look_at_frame, Purpose.RUN),
        check("gpu driver", gpus.look_at_driver, Purpose.GPU),
        check("gpu graphics", gpus.look_at_graphics, Purpose.GPU),
        check("jax on gpu", gpus.look_at_jax_plugin),
        check("container engine", containers.look_at_engine, Purpose.DOCKER),
        check("image disk", containers.look_at_image_disk, Purpose.DOCKER),
        check("gpu runtime", containers.look_at_gpu_runtime, Purpose.GPU),
    )


def examine(checks: tuple[Check, ...], purpose: Purpose) -> Iterator[Result]:
    """The result of every check for ``purpose``, as they are made."""
    for check in checks:
        try:
            finding = check.look()
        except ApplianceError as error:  # its text ends with what to do
            finding = Finding(status=Status.MISSING, found=" ".join(str(error).split()))
        except (OSError, ValueError, ImportError) as error:
            text = str(error).split("\n", 1)[0] or type(error).__name__
            finding = missing(text, DEFECT_FIX)
        yield Result(
            name=check.name,
            required=bool(NEEDS[purpose] & check.needed_for),
            finding=finding,
        )
