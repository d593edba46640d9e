"""The original's checkpoints: where they lie, and whether what lies there is the original's.

Whatever is evaluated or trained on from a checkpoint says something of the original only if that
checkpoint is the original's. Its digests stand in the original's ``checkpoint_leaves.json`` and are
compared on every platform; the process that reads the parameters compares them with these digests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import CheckpointError, ReplayError, StorageError
from appliance.evaluation.checkpoints import find_checkpoint, list_checkpoints
from appliance.manifest.model import Manifest
from appliance.replay.comparison import read_number
from appliance.replay.reading import read_object
from appliance.replay.reference import Reference
from appliance.replay.results import find_run_folder, open_result
from appliance.stages.definition import ARTIFACTS, CONTENT
from appliance.stages.receipt import read_receipt
from appliance.stages.run_folder import RunFolder
from appliance.stages.train import EXP_NAME

LEAVES_FILE = "checkpoint_leaves.json"
POSITION_FILE = "position.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedFiles:
    """The folders of a finished train stage whose checkpoints are at hand."""

    content: Path
    artifacts: Path

    def checkpoints(self, manifest: Manifest) -> Path:
        """The folder of checkpoints by step."""
        return self.artifacts / "checkpoints" / manifest.train.config / EXP_NAME


def find_trained(folder: Path, key: str | None, *, or_present: bool) -> TrainedFiles | None:
    """The train stage in the run folder ``folder`` whose key is ``key``.

    With ``or_present`` that of its present result where there is no such. None when there is none
    with checkpoints. Raises StorageError when ``folder`` is not a run folder.
    """
    run = find_run_folder(folder)
    if run is None:
        raise StorageError(
            f"{folder}: not a run folder, so there are no checkpoints in it. Name the folder of the"
            " original run (it holds run.json and stages/)."
        )
    if key is not None and (found := _find_by_key(run, key)) is not None:
        return found
    if not or_present:
        return None
    with open_result(run.path) as result:
        train = result.stages.get("train")
    if train is None or train.artifacts is None:
        return None
    return TrainedFiles(content=train.content, artifacts=train.artifacts)


def _find_by_key(run: RunFolder, key: str) -> TrainedFiles | None:
    if re.fullmatch("[0-9a-f]{64}", key) is None:
        return None  # a bundle's own word, and no name of a folder
    place = run.stage_dir("train", key)
    receipt = read_receipt(place)
    if receipt is None or receipt.key != key or not (place / ARTIFACTS).is_dir():
        return None
    return TrainedFiles(content=place / CONTENT, artifacts=place / ARTIFACTS)


def describe_other_checkpoint(
    trained: TrainedFiles, manifest: Manifest, reference: Reference | None, *, is_bundle: bool
) -> str | None:
    """Why the checkpoint to evaluate is not the original's; None when it is.

    A manifest whose expectations record no checkpoint has no original to compare with.
    """
    try:
        step, place = find_checkpoint(trained.checkpoints(manifest), manifest.eval.checkpoint)
    except CheckpointError as error:
        return str(error)
    at_hand = read_object(trained.content / LEAVES_FILE)
    if not at_hand.get(str(step)):
        return f"{place}: the training that lies there recorded no checkpoint at step {step}"
    recorded = _recorded(reference)
    if not recorded and not is_bundle:
        return None
    return _describe_other_leaves(step, recorded, at_hand.get(str(step)), place) or next(
        (
            f"train: the checkpoints at hand are not the original's, which differ at step {other}"
            for other in sorted({*recorded, *at_hand})
            if recorded.get(other) != at_hand.get(other)
        ),
        None,
    )


def describe_other_start(
    trained: TrainedFiles,
    manifest: Manifest,
    reference: Reference | None,
    step: int,
    *,
    is_bundle: bool,
) -> str | None:
    """Why the checkpoint at ``step``, to train on from, is not the original's; None when it is.

    Raises ReplayError when there is none, or the original recorded none there. A manifest whose
    expectations record no checkpoint has its hash chain at most to compare with.
    """
    folder = trained.checkpoints(manifest)
    try:
        kept = list_checkpoints(folder)
    except CheckpointError as error:
        raise ReplayError(str(error)) from error
    recorded = _recorded(reference)
    binds = is_bundle or bool(recorded)
    there = sorted(set(kept) & set(map(int, recorded)) if binds else set(kept))
    if step not in there:
        raise ReplayError(
            f"--spot-check {step}: the original has no checkpoint at step {step} that could be"
            f" compared. There are: {', '.join(map(str, there)) or 'none'}; step 0 needs none."
        )
    position = read_object(kept[step] / POSITION_FILE)
    before = _mapping(_train_facts(reference).get("steps")).get(str(step - 1))
    chain = _mapping(before).get("digest")
    if chain is not None and position.get("chain") != chain:
        return (
            f"train: the checkpoint at step {step} in {folder} does not carry the original's hash"
            " chain, so that it is another training's"
        )
    if not binds:
        return None
    return _describe_other_leaves(step, recorded, position.get("leaves"), kept[step])


def _describe_other_leaves(
    step: int, recorded: Mapping[str, Any], found: Any, place: Path
) -> str | None:
    expected = recorded.get(str(step))
    if not isinstance(expected, Mapping) or not expected:
        return f"train: the original recorded no checkpoint at step {step} to compare {place} with"
    leaves = _mapping(found)
    other = sorted(name for name in {*expected, *leaves} if expected.get(name) != leaves.get(name))
    if not other:
        return None
    return (
        f"train: the checkpoint at step {step} in {place} is not the original's: {len(other)} of"
        f" {len(expected)} parameters have other digests, first {other[0]}"
    )


def _recorded(reference: Reference | None) -> Mapping[str, Any]:
    """The original's digests: step, leaf, SHA-256. Steps that are no numbers are left out."""
    every = _mapping(_train_facts(reference).get("checkpoints"))
    return {step: every[step] for step in every if read_number(step) is not None}


def _train_facts(reference: Reference | None) -> Mapping[str, Any]:
    return {} if reference is None else _mapping(reference.facts.get("train"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
