"""A spot check: some steps of a run, taken again from a checkpoint or from the start.

The steps are taken as the run took them (same batches, keys, rates, records), and their records
are written in the same form, so that the lines can be compared with those of the run. Nothing of
the run is written to.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import jax

from appliance.errors import CheckpointError, TrainingError
from appliance.training.checkpoints import CheckpointFolder, Position
from appliance.training.inputs import TrainInputs, read_inputs
from appliance.training.journal import CHAIN_START, Journal
from appliance.training.loop import (
    Recorder,
    compile_step,
    open_feed,
    parameter_root,
    place_constants,
)
from appliance.training.mesh import build_mesh, is_writer, place_tree, tree_shardings
from appliance.training.objective import STATE_NOISE
from appliance.training.request import ProgressCallback, TrainRequest, check_request
from appliance.training.run import Run, abstract_state, initial_state
from appliance.training.schedule import learning_rate_table
from appliance.training.step import TrainState
from appliance.training.summary import choose_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Steps ``first_step`` .. ``first_step + num_steps - 1`` of a run.

    ``checkpoints`` holds the run's checkpoints by step; None when the passage begins at step 0.
    """

    first_step: int
    num_steps: int
    checkpoints: Path | None


def replay_steps(
    request: TrainRequest, passage: Passage, content_dir: Path, on_progress: ProgressCallback
) -> None:
    """Take the steps of ``passage`` again; writes their curve and chain to ``content_dir``.

    The chain goes on from the digest the checkpoint carries. Raises TrainingError for a passage
    outside the run, CheckpointError when there is no whole checkpoint to begin at.
    """
    check_request(request, jax.device_count())
    check_passage(request, passage)
    inputs = read_inputs(request)
    run = _open_run(request, inputs, passage, content_dir, on_progress)
    state, chain = _start_state(run, passage)
    if run.writes:
        run.journal.rewind(0, CHAIN_START)
        run.journal.digest = chain
    try:
        _take_steps(run, state, passage)
        run.journal.flush()
    finally:
        run.journal.close()


def check_passage(request: TrainRequest, passage: Passage) -> None:
    """Raise TrainingError when the run has no such steps."""
    first, end = passage.first_step, passage.first_step + passage.num_steps
    if first < 0 or passage.num_steps < 1 or end > request.num_train_steps:
        raise TrainingError(
            f"Spot check {first}:{passage.num_steps}: the run has steps 0 to"
            f" {request.num_train_steps - 1}. Begin at a kept checkpoint's step, or 0, and end"
            f" before step {request.num_train_steps}."
        )
    if first and passage.checkpoints is None:
        raise TrainingError(
            f"Spot check {first}:{passage.num_steps}: the run's checkpoints are not at hand. Name"
            " its run folder with --artifacts, or begin at step 0."
        )


def _open_run(
    request: TrainRequest,
    inputs: TrainInputs,
    passage: Passage,
    content_dir: Path,
    on_progress: ProgressCallback,
) -> Run:
    """A run that only reads the folder of checkpoints."""
    return Run(
        request=request,
        inputs=inputs,
        rate=choose_rate(request, inputs),
        checkpoints=CheckpointFolder(
            passage.checkpoints or content_dir,
            asset_id=request.asset,
            norm_stats_json=inputs.norm_stats_json,
        ),
        journal=Journal(content_dir),
        content_dir=content_dir,
        observed_dir=content_dir,
        on_progress=on_progress,
        mesh=build_mesh(request.fsdp),
        writes=is_writer(),
    )


def _start_state(run: Run, passage: Passage) -> tuple[TrainState, str]:
    """The state before the first step of the passage, and the chain's digest there."""
    if passage.first_step == 0:
        return initial_state(run), CHAIN_START
    position = _find_position(run.checkpoints, passage.first_step)
    template = abstract_state(run.request)
    state = run.checkpoints.restore(position, template)
    return place_tree(state, tree_shardings(run.mesh, template)), position.chain


def _find_position(checkpoints: CheckpointFolder, step: int) -> Position:
    found = [position for position in checkpoints.positions() if position.step == step]
    if not found:
        kept = sorted({position.step for position in checkpoints.positions()})
        raise CheckpointError(
            f"{checkpoints.folder}: there is no checkpoint at step {step} to begin a spot check at."
            f" There are: {', '.join(map(str, kept)) or 'none'}; step 0 needs none."
        )
    return found[0]


def _take_steps(run: Run, state: TrainState, passage: Passage) -> None:
    request, total = run.request, run.request.num_train_steps
    rates = learning_rate_table(run.rate.schedule, total)
    constants = place_constants(run)
    run.on_progress(0, passage.num_steps, "compiling the training step")
    take_step = compile_step(run, state, constants)
    recorder = Recorder(run, rates)
    with contextlib.closing(open_feed(run, passage.first_step)) as feed:
        for step in range(passage.first_step, passage.first_step + passage.num_steps):
            _, batch = next(feed)
            batch[STATE_NOISE] = constants.state_noise
            state, metrics = take_step(state, batch, constants.run_key, rates[step])
            recorder.pending = (step, metrics)
            done = step + 1
            is_root = done % request.parameter_root_interval == 0 or done == total
            recorder.record_pending(parameter_root(state) if is_root else None)
