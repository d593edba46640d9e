"""Run one stage in this process: what ``appliance stage NAME --run-dir D`` does.

The stage's folder is found by its key; unfinished work there is continued. The receipt is written
last. Nothing is read from the chain that started this process except the run folder.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import StageFailedError, StorageError
from appliance.files import read_json, remove_leftovers, storage_errors
from appliance.manifest.lock import Lock
from appliance.manifest.model import Manifest
from appliance.stages import spot_check
from appliance.stages.decide import build_key_parts, read_previous
from appliance.stages.definition import Progress, Stage, StageContext
from appliance.stages.environment import (
    OwnEnvironment,
    describe_host,
    find_environment_changes,
)
from appliance.stages.installed import ENVIRONMENT_FILE, write_environment
from appliance.stages.manifest import read_manifest
from appliance.stages.receipt import Receipt, read_receipt, seal_folder, stage_key
from appliance.stages.registry import find_stage
from appliance.stages.run_folder import RunFolder

_SHOWN_CHANGES = 3

logger = logging.getLogger(__name__)

# The stages that load the heavy libraries; they may run in different environments.
ENVIRONMENT_STAGES = ("train", "evaluate")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """A run folder's manifest, lock and places, as a stage process finds them."""

    folder: RunFolder
    manifest: Manifest
    lock: Lock
    dataset_root: Path
    files: Mapping[str, Path]
    scratch_dir: Path


def load_run(run_dir: Path) -> LoadedRun:
    """Read what the chain left for its stages. Raises StorageError when it is no run folder."""
    folder = RunFolder(run_dir)
    state = folder.read_state()
    root, files, scratch_dir = (state.get(key) for key in ("dataset_root", "files", "scratch_dir"))
    named = [root, scratch_dir, *(files.values() if isinstance(files, Mapping) else [None])]
    if not folder.manifest_path.is_file() or not all(isinstance(each, str) for each in named):
        raise StorageError(
            f"{run_dir}: not a run folder (manifest.yaml or run.json is missing, or of an older"
            " version). Start with `appliance run MANIFEST`, or say it again."
        )
    return LoadedRun(
        folder=folder,
        manifest=read_manifest(folder.manifest_path),
        lock=Lock.from_dict(read_json(folder.lock_path)),
        dataset_root=Path(str(root)),
        files={key: Path(place) for key, place in dict(files or {}).items()},
        scratch_dir=Path(str(scratch_dir)),
    )


def execute_stage(run_dir: Path, name: str, progress: Progress) -> Receipt:
    """Run stage ``name`` of a run folder to its receipt; a finished stage is left as it is.

    Raises the stage's own errors, and StageFailedError when an upstream stage is not finished.
    """
    run = load_run(run_dir)
    if name == spot_check.NAME:
        stage = spot_check.stage(run.manifest, spot_check.read_spot_check(run.folder))
    else:
        stage = find_stage(run.manifest, name)
    _check_environment(run, stage)
    inputs, digests = _finished_inputs(run, stage)
    key_parts = build_key_parts(stage, run.manifest, run.lock, digests)
    key = stage_key(key_parts)
    folder = run.folder.stage_dir(name, key)
    finished = read_receipt(folder)
    if finished is not None and finished.key == key:
        record_stage(run.folder, name, folder)
        return finished
    with storage_errors(folder, f"making the folder of stage {name}"):
        folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    context = StageContext(
        manifest=run.manifest,
        dataset_root=run.dataset_root,
        files=run.files,
        inputs=inputs,
        folder=folder,
        scratch_dir=run.scratch_dir,
        progress=progress,
    )
    times = _timed(lambda: stage.run(context), f"stage {name} in {folder}")
    if name in ENVIRONMENT_STAGES:
        write_environment(context.observed / ENVIRONMENT_FILE, stage.packages, run.scratch_dir)
    receipt = seal_folder(
        folder,
        stage=name,
        key_parts=key_parts,
        times=times,
        host=describe_host(run.manifest.runtime.gpus),
    )
    record_stage(run.folder, name, folder)
    return receipt


def record_stage(folder: RunFolder, stage: str, place: Path) -> None:
    """Note in ``run.json`` that ``place`` is the present result of ``stage``."""
    state = folder.read_state()
    others = {name: other.name for name, other in folder.stage_places().items()}
    state["stages"] = {**others, stage: place.name}
    folder.write_state(state)


def _check_environment(run: LoadedRun, stage: Stage) -> None:
    """See that this process is what the lock says. Raises StageFailedError naming what is not."""
    changes = find_environment_changes(run.lock, OwnEnvironment(), stage.rooms, stage.packages)
    if changes:
        raise StageFailedError(
            f"The stage {stage.name} cannot run: its environment is not the one in"
            f" {run.folder.lock_path} ({'; '.join(changes[:_SHOWN_CHANGES])}). It changed since the"
            " run began: run the same command again."
        )


def _finished_inputs(run: LoadedRun, stage: Stage) -> tuple[dict[str, Path], dict[str, str]]:
    """Folders and content digests of the upstream stages, each one made for this very manifest."""
    places, receipts = run.folder.stage_places(), read_previous(run.folder)
    for name in stage.upstream:
        upstream = find_stage(run.manifest, name)
        digests = _finished_inputs(run, upstream)[1]
        key = stage_key(build_key_parts(upstream, run.manifest, run.lock, digests))
        if name not in receipts or receipts[name].key != key:
            raise StageFailedError(
                f"The stage {stage.name} needs {name}, which is not finished for this manifest in"
                f" {run.folder.path}. Run it first: appliance stage {name} --run-dir"
                f" {run.folder.path}"
            )
    paths = {name: places[name] for name in stage.upstream}
    return paths, {name: receipts[name].content_digest for name in stage.upstream}


def _timed(work: Callable[[], None], what: str) -> dict[str, Any]:
    started = datetime.datetime.now(datetime.UTC)
    clock = time.monotonic()
    try:
        work()
    except OSError as error:
        with storage_errors(Path(error.filename or "."), what):
            raise
    return {
        "started_utc": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 3),
    }
