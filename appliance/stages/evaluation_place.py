"""Where the records of an evaluation lie in whatever folder a person names."""

from __future__ import annotations

from pathlib import Path

from appliance.errors import EvaluationError
from appliance.stages.definition import CONTENT
from appliance.stages.run_folder import RunFolder

METRICS_NAME = "metrics.json"
STAGE_NAME = "evaluate"


def find_evaluation(folder: Path) -> Path:
    """The ``content/`` of the evaluation in ``folder``.

    ``folder`` is an evaluation's output, its ``content``, a stage's folder, a run folder (its
    present result) or a bundle. Raises EvaluationError when there is none.
    """
    places = [folder, folder / CONTENT, folder / CONTENT / STAGE_NAME]
    stage = RunFolder(folder).read_state().get("stages", {}).get(STAGE_NAME)
    if isinstance(stage, str):
        places.append(folder / "stages" / stage / CONTENT)
    for place in places:
        if (place / METRICS_NAME).is_file():
            return place
    raise EvaluationError(
        f"{folder}: no finished evaluation there ({METRICS_NAME} is missing). Name the output of"
        " `appliance evaluate`, a run folder, or a bundle."
    )
