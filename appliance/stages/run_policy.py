"""The policy a run folder trained, for commands that use it outside the chain."""

from __future__ import annotations

from pathlib import Path

from appliance.errors import StageFailedError
from appliance.manifest.model import Manifest
from appliance.stages.execute import load_run
from appliance.stages.trained_policy import PolicyFiles, find_after_training


def find_in_run(run_dir: Path, which: int | str | None = None) -> tuple[PolicyFiles, Manifest]:
    """The policy a run folder trained, and its manifest; ``which`` defaults to the manifest's.

    Raises StorageError (no run folder), StageFailedError (not trained yet), CheckpointError.
    """
    run = load_run(run_dir)
    places = run.folder.stage_places()
    missing = [name for name in ("norm_stats", "train") if name not in places]
    if missing:
        raise StageFailedError(
            f"{run_dir}: the stage {missing[0]} is not finished there, so there is no trained"
            f" policy. Finish the run first: appliance run {run.folder.manifest_path}"
        )
    manifest = run.manifest
    step = manifest.eval.checkpoint if which is None else which
    files = find_after_training(
        manifest, places["train"], places["norm_stats"], step, files=run.files
    )
    return files, manifest
