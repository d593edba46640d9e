"""Stage `spot_check`: some steps of a training run taken again, for a replay.

Not in the chain of a manifest. Which steps, and where the run's checkpoints lie, stands in the run
folder's ``run.json`` under ``spot_check``. Content: ``curve.jsonl`` and ``hash_chain.jsonl`` of
these steps alone.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import StorageError
from appliance.manifest.model import Manifest
from appliance.stages.definition import Stage, StageContext
from appliance.stages.registry import find_stage
from appliance.stages.run_folder import RunFolder
from appliance.stages.train import layout_of, stage_request

NAME = "spot_check"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotCheck:
    """Steps ``first_step`` .. ``first_step + num_steps - 1``.

    ``checkpoints`` is the run's folder of checkpoints by step, None when the first step is 0.
    """

    first_step: int
    num_steps: int
    checkpoints: Path | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; ``read_spot_check`` reads it."""
        place = None if self.checkpoints is None else str(self.checkpoints)
        return {
            "first_step": self.first_step,
            "num_steps": self.num_steps,
            "checkpoints": place,
        }


def ask_spot_check(folder: RunFolder, check: SpotCheck) -> None:
    """Note in ``run.json`` which steps the stage process is to take. Raises StorageError."""
    folder.write_state({**folder.read_state(), NAME: check.to_dict()})


def read_spot_check(folder: RunFolder) -> SpotCheck:
    """What ``ask_spot_check`` noted. Raises StorageError when nothing is asked."""
    value = folder.read_state().get(NAME)
    if not isinstance(value, Mapping):
        raise StorageError(f"{folder.path}: no spot check is asked for. `appliance replay` asks.")
    place = value["checkpoints"]
    return SpotCheck(
        first_step=int(value["first_step"]),
        num_steps=int(value["num_steps"]),
        checkpoints=None if place is None else Path(place),
    )


def stage(manifest: Manifest, check: SpotCheck) -> Stage:
    """The stage that takes the steps of ``check`` again."""
    train = find_stage(manifest, "train")

    def run(context: StageContext) -> None:
        from appliance.training.processes import run_by_layout
        from appliance.training.spot_check import Passage, replay_steps

        passage = Passage(
            first_step=check.first_step,
            num_steps=check.num_steps,
            checkpoints=check.checkpoints,
        )
        work = functools.partial(replay_steps, stage_request(context), passage, context.content)
        layout = layout_of(context.manifest.train, gpus=context.manifest.runtime.gpus)
        run_by_layout(work, layout, context.progress)

    return Stage(
        name=NAME,
        version=1,
        upstream=train.upstream,
        rooms=train.rooms,
        packages=train.packages,
        manifest_part=lambda each: {**train.manifest_part(each), NAME: check.to_dict()},
        run=run,
        reads=() if check.checkpoints is None else (check.checkpoints,),
    )
