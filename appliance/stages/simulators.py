"""The simulator a manifest asks for: what the records say of it, and how to start one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.manifest.model import Manifest
from appliance.policy.presets import TrainConfig
from appliance.simulator.spec import ROBOTWIN_IMAGE_SIZE, SimulatorSpec

if TYPE_CHECKING:
    from appliance.evaluation.protocols import SimulatorFactory, SimulatorProtocol
    from appliance.simulator.checkout import CheckoutSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenSimulator:
    """A simulator that can be started any number of times; ``record`` names it in the records."""

    spec: SimulatorSpec | CheckoutSpec
    record: Mapping[str, Any]
    call_timeout_s: float

    def factory(self, observed: Path) -> SimulatorFactory:
        """Makes the simulators; their logs go to the folder ``observed``."""

        def start(number: int) -> SimulatorProtocol:
            from appliance.simulator.checkout import CheckoutProcess
            from appliance.simulator.worker import SimulatorProcess

            log_path = observed / f"simulator-{number}.log"
            if isinstance(self.spec, SimulatorSpec):
                return SimulatorProcess(
                    self.spec, log_path=log_path, call_timeout_s=self.call_timeout_s
                )
            return CheckoutProcess(self.spec, log_path=log_path, call_timeout_s=self.call_timeout_s)

        return start


def choose_simulator(
    manifest: Manifest,
    *,
    files: Mapping[str, Path],
    cameras: tuple[str, ...],
    image_size: tuple[int, int],
) -> ChosenSimulator:
    """The simulator of the eval part, with only ``cameras``, at ``image_size`` (width, height).

    ``files`` (as of a ``StageContext``) say where a checkout lies. Raises SimulatorError.
    """
    from appliance.simulator.checkout import CheckoutSpec

    part = manifest.eval
    asked: dict[str, Any] = {
        "task": part.task,
        "task_config": part.task_config,
        "embodiment": part.embodiment,
        "planner": part.planner,
        "shader": part.shader,
        "cameras": cameras,
        "image_size": image_size,
    }
    record: dict[str, Any] = {"name": part.simulator}
    spec: SimulatorSpec | CheckoutSpec
    if part.checkout is None:
        spec = SimulatorSpec(**asked)
        record |= spec.as_record()
    else:
        spec = CheckoutSpec(
            root=files["eval.checkout.path"],
            python=files["eval.checkout.python"],
            layout=robotwin_layout(manifest),
            **asked,
        )
        record |= {**spec.as_record(), **_describe_checkout(spec)}
    return ChosenSimulator(spec=spec, record=record, call_timeout_s=part.call_timeout_s)


def cameras_of(config: TrainConfig) -> tuple[str, ...]:
    """The cameras a configuration's policy reads, by their names in the dataset."""
    return tuple(camera for camera, _ in config.cameras)


def picture_size(height_px: int, width_px: int) -> tuple[int, int]:
    """(width, height) of the cameras: what a policy reads, if that has the shape of RoboTwin's.

    A policy of square pictures was trained on RoboTwin's, resized with padding; it gets those and
    does the same to them.
    """
    wide, high = ROBOTWIN_IMAGE_SIZE
    return (width_px, height_px) if width_px * high == height_px * wide else ROBOTWIN_IMAGE_SIZE


def robotwin_layout(manifest: Manifest) -> str:
    """How RoboTwin lies in ``eval.checkout``: a checkout, or assets for the installed runtime."""
    from appliance.simulator.checkout_worker import CHECKOUT, RUNTIME

    return RUNTIME if manifest.eval.simulator == "robotwin-assets" else CHECKOUT


def _describe_checkout(spec: CheckoutSpec) -> dict[str, str]:
    """What stands in the records of RoboTwin as it is now; the lock has its assets too."""
    from appliance.simulator.checkout import digest_code, digest_environment

    return {
        "checkout": digest_code(spec.root, spec.python, spec.layout),
        "environment": digest_environment(spec.python),
    }
