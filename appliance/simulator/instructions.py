"""The sentence that tells a policy what to do in a trial.

RoboTwin has sentence templates for each task, ``seen`` (for training) and ``unseen`` (for
evaluation), with gaps for objects and arms; the expert's run fills the gaps. RoboTwin draws with
Python's unseeded generator; here the draw comes from a stream named by task, type and seed, so
that a trial has the same sentence whenever it is run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from robotwin.description.instructions import (
    filter_instructions,
    load_task_instructions,
    replace_placeholders,
    replace_placeholders_unseen,
)

from appliance.errors import SimulatorError
from appliance.simulator.spec import OWN_TASKS, check_name
from appliance.streams import stream_seed

INSTRUCTION_TYPES = ("seen", "unseen")


def draw_instruction(
    task: str, instruction_type: str, seed: int, gaps: Mapping[str, object]
) -> str:
    """The instruction of the trial ``seed``; ``gaps`` is what RoboTwin's expert reports.

    The same arguments give the same sentence. Raises SimulatorError when no template of this type
    fits the gaps.
    """
    check_name("instruction type", instruction_type, INSTRUCTION_TYPES)
    draw = random.Random(stream_seed(seed, "simulator", "instruction", task, instruction_type))  # noqa: S311
    filled = {name: str(value) for name, value in gaps.items()}
    templates = filter_instructions(_templates(task)[instruction_type], filled, draw)
    if not templates:
        raise SimulatorError(
            f"task {task}, seed {seed}: no {instruction_type} instruction fits"
            f" {sorted(filled)}. Evaluate with the other instruction type."
        )
    replace = replace_placeholders if instruction_type == "seen" else replace_placeholders_unseen
    return str(replace(templates[0], filled, draw))


def check_instructions(task: str) -> None:
    """Raise SimulatorError, naming the file, unless the task has templates of both types."""
    name = f"description/task_instruction/{task}.json"
    try:
        templates = _templates(task)
        missing = [kind for kind in INSTRUCTION_TYPES if not templates[kind]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SimulatorError(
            f"task {task}: its instruction file {name} is missing or unreadable ({error}). Install"
            " rlinf-robotwin-runtime again (`make setup`)."
        ) from error
    if missing:
        raise SimulatorError(
            f"task {task}: its instruction file {name} has no {' and no '.join(missing)} templates."
            " Install rlinf-robotwin-runtime again (`make setup`)."
        )


def _templates(task: str) -> Any:
    """A task's language data: ours from this package, the others from RoboTwin's."""
    if task not in OWN_TASKS:
        return load_task_instructions(task)
    source = files("appliance.simulator.tasks").joinpath(f"{task}.json")
    return json.loads(source.read_text("utf-8"))
