"""A training run's folders: claimed for one configuration, found again, finished."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from appliance.errors import CheckpointError, StorageError, TrainingError
from appliance.files import read_json, set_aside, storage_errors, write_json
from appliance.policy.parameters import abstract_params, flatten_params
from appliance.streams import stream_seed
from appliance.training.checkpoints import CheckpointFolder
from appliance.training.exposure import DrawLog
from appliance.training.inputs import TrainInputs, check_free_space
from appliance.training.journal import CHAIN_START, Journal
from appliance.training.mesh import (
    agree,
    build_mesh,
    gather_tree,
    is_writer,
    place_tree,
    tree_shardings,
)
from appliance.training.objective import initial_params, stored_type
from appliance.training.optimizer import build_optimizer, freeze_rule, split_frozen
from appliance.training.platform import describe_platform
from appliance.training.request import ProgressCallback, TrainRequest, describe_request, plain_data
from appliance.training.step import TrainState, start_state
from appliance.training.summary import (
    RateInForce,
    choose_rate,
    copy_plan,
    describe_run,
    remove_results,
    write_results,
)

logger = logging.getLogger(__name__)

IDENTITY_FILE = "training.json"
DIFFERENCES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What stays the same from the first step to the last."""

    request: TrainRequest
    inputs: TrainInputs
    rate: RateInForce
    checkpoints: CheckpointFolder
    journal: Journal
    content_dir: Path
    observed_dir: Path
    on_progress: ProgressCallback
    mesh: Mesh
    writes: bool


def prepare_run(
    request: TrainRequest,
    inputs: TrainInputs,
    *,
    content_dir: Path,
    observed_dir: Path,
    artifacts_dir: Path,
    on_progress: ProgressCallback,
) -> Run:
    """Open the run's folders: set aside (overwrite), refuse, or go on with what is there.

    Raises TrainingError when they hold another run, StorageError.
    """
    checkpoints = CheckpointFolder(
        artifacts_dir / "checkpoints" / request.config.name / request.exp_name,
        asset_id=request.asset,
        norm_stats_json=inputs.norm_stats_json,
    )
    rate = choose_rate(request, inputs)
    if is_writer():
        if request.overwrite:
            set_aside(checkpoints.folder, "overwritten")
            remove_results(content_dir)
        for folder in (content_dir, observed_dir, checkpoints.folder):
            with storage_errors(folder, "making the output folders"):
                folder.mkdir(parents=True, exist_ok=True)
        claim_folder(checkpoints, request, describe_identity(request, inputs, rate))
        newest = max((position.step for position in checkpoints.positions()), default=-1)
        check_free_space(checkpoints.folder, expect_bytes(request, newest))
        copy_plan(inputs, content_dir, checkpoints.folder)
    return Run(
        request=request,
        inputs=inputs,
        rate=rate,
        checkpoints=checkpoints,
        journal=Journal(content_dir),
        content_dir=content_dir,
        observed_dir=observed_dir,
        on_progress=on_progress,
        mesh=build_mesh(request.fsdp),
        writes=is_writer(),
    )


def describe_identity(
    request: TrainRequest, inputs: TrainInputs, rate: RateInForce
) -> dict[str, Any]:
    """Everything a step's bits depend on; a run is only ever resumed under the same."""
    return {
        "configuration": describe_request(request),
        "schedule": plain_data(rate.schedule),
        "inputs": inputs.describe(),
        "platform": describe_platform(),
    }


def claim_folder(
    checkpoints: CheckpointFolder, request: TrainRequest, identity: Mapping[str, Any]
) -> None:
    """Make sure the folder holds nothing, or this very run. Raises TrainingError, StorageError."""
    path = checkpoints.folder / IDENTITY_FILE
    checkpoints.remove_leftovers()
    if checkpoints.positions():
        if not request.resume:
            raise TrainingError(
                f"{checkpoints.folder}: checkpoints of an earlier run are here. Use resume to go on"
                " with it, overwrite to set it aside, or another exp_name."
            )
        differences = find_differences(_read_identity(path), identity)
        if differences:
            shown = "; ".join(differences[:DIFFERENCES_SHOWN])
            raise TrainingError(
                f"{checkpoints.folder}: the run that began here had other settings ({shown}), so it"
                " cannot be resumed with these. Restore them, use overwrite, or another exp_name."
            )
    write_json(path, identity)


def _read_identity(path: Path) -> Any:
    try:
        return read_json(path)
    except StorageError:
        return {}


def find_differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Where two JSON values differ, as "path: before, now: after"."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        names = sorted(before.keys() | now.keys())
        return [
            difference
            for name in names
            for difference in find_differences(
                before.get(name), now.get(name), f"{where}.{name}" if where else name
            )
        ]
    return [] if before == now else [f"{where}: {before!r}, now {now!r}"]


def abstract_state(request: TrainRequest) -> TrainState:
    """Shapes and types of the training state, without allocating it."""
    config = request.config
    freeze = freeze_rule(config.freeze, request.freeze_mode)
    leaves = {
        path: jax.ShapeDtypeStruct(leaf.shape, stored_type(path, freeze))  # type: ignore[no-untyped-call]
        for path, leaf in flatten_params(abstract_params(config.model)).items()
    }
    trained, frozen = split_frozen(leaves, freeze)
    optimizer = build_optimizer(config.optimizer)
    shapes: TrainState = jax.eval_shape(
        lambda trained, frozen: start_state(trained, frozen, optimizer, ema_decay=config.ema_decay),
        trained,
        frozen,
    )
    return shapes


def expect_bytes(request: TrainRequest, newest: int) -> int:
    """About how much disk the checkpoints after step ``newest`` take, one resume point included.

    ``newest`` is the step of the newest checkpoint that is there, -1 without any. Nothing is needed
    by a run whose last one is there.
    """
    missing = sum(map(request.is_kept, range(newest + 1, request.num_train_steps + 1)))
    if not missing:
        return 0
    shapes = abstract_state(request)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    return int(size * (missing + 1))


def restore_or_start(run: Run) -> TrainState:
    """The newest state that is whole and agrees with the journal, else the initial one, placed.

    The journal is cut to it. A damaged checkpoint is passed over with a warning: going on from an
    earlier one ends the same. With several processes the first one chooses.
    """
    template = abstract_state(run.request)
    state = find_state(run, template) if run.writes else None
    chosen = agree(-1 if state is None else int(state.step))
    if chosen < 0:
        return initial_state(run)
    if state is None:
        position = next(each for each in run.checkpoints.positions() if each.step == chosen)
        state = run.checkpoints.restore(position, template)
    return place_tree(state, tree_shardings(run.mesh, template))


def find_state(run: Run, template: TrainState) -> TrainState | None:
    """The state to go on from, on the host; None to start. Cuts the journal to it."""
    for position in run.checkpoints.positions():
        if not run.journal.rewind(position.step, position.chain):
            logger.warning("%s: passed over, the loss curve does not reach it", position.folder)
            continue
        try:
            state = run.checkpoints.restore(position, template)
        except CheckpointError as error:
            logger.warning("passed over a checkpoint: %s", error)
            continue
        logger.info("going on from step %d", position.step)
        return state
    run.journal.rewind(0, CHAIN_START)
    return None


def initial_state(run: Run) -> TrainState:
    """The state before the first step. Raises CheckpointError for bad initial weights."""
    request, config = run.request, run.request.config
    freeze = freeze_rule(config.freeze, request.freeze_mode)
    seed = stream_seed(request.seed, "parameters")
    params = gather_tree(initial_params(config, seed, freeze, request.init))
    trained, frozen = split_frozen(place_tree(params, tree_shardings(run.mesh, params)), freeze)
    optimizer = build_optimizer(config.optimizer)
    shardings = tree_shardings(run.mesh, abstract_state(request))
    begin = jax.jit(
        lambda trained, frozen: start_state(trained, frozen, optimizer, ema_decay=config.ema_decay),
        out_shardings=shardings,
    )
    state: TrainState = begin(trained, frozen)
    return state


def replay_draws(run: Run, num_steps: int) -> DrawLog:
    """The log of the rows that the first ``num_steps`` steps were trained on."""
    draws = DrawLog(run.inputs.num_rows)
    rows_N = run.inputs.drawn_rows
    for batch in itertools.islice(run.inputs.stream.batches(), num_steps):
        draws.add(rows_N[batch])
    return draws


def finish(run: Run, draws: DrawLog) -> None:
    """Write what a finished run leaves; safe to repeat. Raises StorageError."""
    leaves = {
        step: digests
        for step, digests in run.checkpoints.kept_leaves().items()
        if run.request.is_kept(int(step))
    }
    sizes = jax.tree.map(lambda leaf: leaf.size, abstract_state(run.request))
    counts = {
        "trained_parameters": sum(sizes.trained.values()),
        "frozen_parameters": sum(sizes.frozen.values()),
    }
    summary = describe_run(
        run.request, run.inputs, run.rate, counts=counts, draws=draws, chain=run.journal.digest
    )
    write_results(summary, leaves, run.content_dir, run.checkpoints.folder)
    run.checkpoints.clear_resume_points()
