"""The training run: one visible loop over pure steps.

A run may be killed at any moment and called again on the same folders; it goes on from the newest
checkpoint, and its content files end the same, bit for bit, as if it had never stopped. What a
step computes depends on (state, batch, key, learning rate) only, the batch on the step's number.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from appliance.digest import sha256_json
from appliance.errors import TrainingError
from appliance.policy.augment import build_state_noise
from appliance.policy.checkpoint import digest_leaves
from appliance.policy.parameters import make_key
from appliance.policy.presets import TrainConfig
from appliance.policy.transforms import stack_items
from appliance.streams import stream_seed
from appliance.training.data import Item, build_loader
from appliance.training.exposure import DrawLog, Rows
from appliance.training.feed import DeviceFeed, report_dead_workers
from appliance.training.inputs import read_inputs
from appliance.training.journal import StepRecord
from appliance.training.mesh import (
    agree,
    batch_sharding,
    describe_mesh,
    gather_to_writer,
    local_slots,
    meet,
    place_batch,
    place_tree,
    tree_shardings,
    whole,
)
from appliance.training.objective import STATE_NOISE, build_loss
from appliance.training.optimizer import build_optimizer
from appliance.training.request import ProgressCallback, TrainRequest, check_request
from appliance.training.run import Run, finish, prepare_run, replay_draws, restore_or_start
from appliance.training.sampler import AddressedBatches
from appliance.training.schedule import learning_rate_table
from appliance.training.step import Batch, Metrics, StepFunction, TrainState, build_step
from appliance.training.timing import SessionLog, Stopwatch

logger = logging.getLogger(__name__)

LOGGED = ("loss", "grad_norm", "param_norm", "learning_rate")
NOT_MODEL_INPUT = ("row", "action_is_pad")
SAVE_SHARE = 20.0
"""Resume points are at least this many times their own saving time apart."""
PROGRESS_INTERVAL_S = 0.5


def ignore_progress(done: int, total: int, text: str) -> None:
    """The progress callback of a caller who does not listen."""


def train(
    request: TrainRequest,
    content_dir: Path,
    observed_dir: Path,
    artifacts_dir: Path,
    on_progress: ProgressCallback = ignore_progress,
) -> None:
    """Train, or go on training, and leave the results in the three folders.

    ``content_dir``: run_summary.json, curve.jsonl, hash_chain.jsonl, checkpoint_leaves.json,
    sampling_plan/; ``observed_dir``: timing.json; ``artifacts_dir``:
    checkpoints/<train_config>/<exp_name>/<step>/. Raises ApplianceError; whatever happens, the
    last good checkpoint stays.
    """
    check_request(request, jax.device_count())
    inputs = read_inputs(request)
    run = prepare_run(
        request,
        inputs,
        content_dir=content_dir,
        observed_dir=observed_dir,
        artifacts_dir=artifacts_dir,
        on_progress=on_progress,
    )
    try:
        state = restore_or_start(run)
        first_step = int(np.asarray(state.step))
        draws = replay_draws(run, first_step)
        run_steps(run, state, first_step, draws)
        if run.writes:
            finish(run, draws)
    finally:
        run.journal.close()


def run_steps(run: Run, state: TrainState, first_step: int, draws: DrawLog) -> None:
    """Every step from ``first_step`` to the budget, with its records and checkpoints.

    Figures of a step are read while the device runs the next one.
    """
    request, total = run.request, run.request.num_train_steps
    saver = Saver(run, first_step, describe_mesh(run.mesh, state))
    if first_step == total:
        saver.save_final(state)
        return
    rates = learning_rate_table(run.rate.schedule, total)
    constants = place_constants(run)
    run.on_progress(first_step, total, "compiling the training step")
    with saver.watch.measure("compile"):
        take_step = compile_step(run, state, constants)
    recorder = Recorder(run, rates)
    expected = expect_rows(run, first_step)
    with report_dead_workers(), contextlib.closing(open_feed(run, first_step)) as feed:
        saver.start_clock()
        for step in range(first_step, total):
            rows, batch = saver.watch.fetch(feed, busy=recorder.is_busy)
            draws.add(check_rows(step, next(expected), rows))
            batch[STATE_NOISE] = constants.state_noise
            state, metrics = take_step(state, batch, constants.run_key, rates[step])
            recorder.record_pending()
            recorder.pending = (step, metrics)
            done = step + 1
            is_root = done % request.parameter_root_interval == 0 or done == total
            is_due = saver.is_due(done)
            if is_root or is_due:
                recorder.record_pending(parameter_root(state) if is_root else None)
            if is_due:
                saver.save(state, done)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What every step is given beside its batch, whole on every device."""

    run_key: jax.Array
    state_noise: Any


def place_constants(run: Run) -> Constants:
    """The run's key and its scaled state noise on the devices."""
    key = make_key(stream_seed(run.request.seed, "steps"))
    noise = build_state_noise(run.request.config, run.inputs.norm_stats)
    words = place_tree(jax.random.key_data(key), whole(run.mesh))
    return Constants(
        run_key=jax.random.wrap_key_data(words, impl=jax.random.key_impl(key)),
        state_noise=place_tree(noise, jax.tree.map(lambda _: whole(run.mesh), noise)),
    )


def compile_step(run: Run, state: TrainState, constants: Constants) -> StepFunction:
    """The train step, compiled for the shapes of this run's batches and for its mesh.

    Returns when every process has compiled it.
    """
    example = to_model(stack_items([run.inputs.items[(0, 0, 0)]] * run.request.batch))
    example[STATE_NOISE] = constants.state_noise
    leaves, form = jax.tree.flatten((state, example, constants.run_key, np.float32(0)))
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    step = compile_for_shapes(run.request.config, run.mesh, form, shapes)
    meet("compiled")
    return step


@functools.lru_cache(maxsize=4)
def compile_for_shapes(
    config: TrainConfig, mesh: Mesh, form: Any, shapes: tuple[tuple[tuple[int, ...], Any], ...]
) -> StepFunction:
    """The compiled step of ``config`` for arguments of these shapes; made once a process."""
    step = build_step(
        build_loss(config), build_optimizer(config.optimizer), ema_decay=config.ema_decay
    )
    leaves = [
        jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]
        for shape, dtype in shapes
    ]
    arguments = jax.tree.unflatten(form, leaves)
    state, batch, _, _ = arguments
    state_shardings = tree_shardings(mesh, state)
    batch_shardings = jax.tree.map(lambda _: batch_sharding(mesh), batch)
    batch_shardings[STATE_NOISE] = jax.tree.map(lambda _: whole(mesh), batch[STATE_NOISE])
    jitted = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(state_shardings, batch_shardings, whole(mesh), whole(mesh)),
        out_shardings=(state_shardings, whole(mesh)),
    )
    compiled: StepFunction = jitted.lower(*arguments).compile()
    return compiled


def open_feed(run: Run, first_step: int) -> DeviceFeed:
    """The batches of the steps from ``first_step`` to the budget, this process's part of each."""
    batches = AddressedBatches(
        run.inputs.stream,
        start_step=first_step,
        stop_step=run.request.num_train_steps,
        slots=local_slots(run.request.batch),
    )
    loader = build_loader(run.inputs.items, batches, num_workers=run.request.num_workers)
    sharding = batch_sharding(run.mesh)
    return DeviceFeed(loader, lambda batch: place_batch(to_model(batch), sharding))


def to_model(batch: Item) -> Batch:
    """The part of a batch that travels to the device."""
    return {key: value for key, value in batch.items() if key not in NOT_MODEL_INPUT}


def expect_rows(run: Run, first_step: int) -> Iterator[Rows]:
    """The dataset rows of the whole batch of each step from ``first_step`` on."""
    rows_N = run.inputs.drawn_rows
    for batch in run.inputs.stream.batches(first_step):
        yield rows_N[batch]


def check_rows(step: int, rows_B: Rows, loaded: Rows) -> Rows:
    """``rows_B`` when this process's part of it is what was loaded. Raises TrainingError."""
    slots = local_slots(len(rows_B))
    if not np.array_equal(rows_B[slots.start : slots.stop], loaded):
        raise TrainingError(
            f"Step {step}: the rows that were loaded are not the ones that were drawn. This is a"
            " defect of the data loader; run again with train.num_workers: 0."
        )
    return rows_B


def parameter_root(state: TrainState) -> str | None:
    """One SHA-256 over the digests of the live trained leaves, whatever devices hold them.

    None in a process that does not write.
    """
    trained = gather_to_writer(state.trained)
    return None if trained is None else sha256_json(digest_leaves(trained))


class Recorder:
    """Writes each step's figures to the journal, one step behind the device."""

    def __init__(self, run: Run, rates: npt.NDArray[np.float32]) -> None:
        self.run = run
        self.rates = rates
        self.pending: tuple[int, Metrics] | None = None
        self.log = IntervalLog(run.request.config.log_interval)
        self.shown_s = 0.0

    def is_busy(self) -> bool:
        """Whether the device still works on the pending step."""
        if self.pending is None:
            return False
        loss: Any = self.pending[1]["loss"]
        return not loss.is_ready()

    def record_pending(self, parameter_root: str | None = None) -> None:
        """Wait for the pending step and write it down. Raises TrainingError when not finite."""
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        figures: dict[str, Any] = {
            name: float(np.asarray(value)) for name, value in metrics.items()
        }
        bad = sorted(name for name, value in figures.items() if not math.isfinite(value))
        if bad:
            raise TrainingError(
                f"Step {step}: {', '.join(f'{name} is {figures[name]}' for name in bad)}. Training"
                f" stopped; the last good checkpoint is kept in {self.run.checkpoints.folder}."
                " Lower the learning rate, or look for odd values in the data and its statistics."
            )
        figures["learning_rate"] = float(self.rates[step])
        if self.run.writes:
            self.run.journal.append(StepRecord(step=step, parameter_root=parameter_root, **figures))
            self.log.add(step + 1, figures)
            self._show(step + 1, figures["loss"])

    def _show(self, done: int, loss: float) -> None:
        total = self.run.request.num_train_steps
        now_s = time.monotonic()
        if now_s - self.shown_s >= PROGRESS_INTERVAL_S or done == total:
            self.shown_s = now_s
            self.run.on_progress(done, total, f"loss {loss:.4f}")


class IntervalLog:
    """Logs the means of a step's figures over every ``interval`` steps of the run."""

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self.kept: list[dict[str, float]] = []

    def add(self, done: int, figures: dict[str, float]) -> None:
        """Add the figures of the step that made ``done``."""
        self.kept.append(figures)
        if done % self.interval == 0:
            means = {name: np.mean([each[name] for each in self.kept]) for name in LOGGED}
            shown = ", ".join(f"{name} {mean:.4g}" for name, mean in means.items())
            logger.info("step %d (mean of %d): %s", done, len(self.kept), shown)
            self.kept.clear()


class Saver:
    """Saves checkpoints: the kept ones by step, resume points by the clock.

    When and how often resume points are saved changes no result.
    """

    def __init__(self, run: Run, first_step: int, facts: Mapping[str, Any]) -> None:
        self.run = run
        self.watch = Stopwatch(first_step, facts)
        self.sessions = SessionLog(run.observed_dir)
        self.saved_s = time.monotonic()
        self.pause_s = run.request.resume_interval_s
        # Several processes ask each other, which waits for the device: not after every step.
        interval = run.request.config.log_interval
        self.agree_interval = 1 if jax.process_count() == 1 else interval

    def start_clock(self) -> None:
        """The first step begins now."""
        self.watch.start_loop()
        self.saved_s = time.monotonic()

    def is_due(self, done: int) -> bool:
        """Whether the state after ``done`` updates is to be saved; counts the step."""
        self.watch.steps += 1
        if self.run.request.is_kept(done) or self.pause_s == 0:
            return True
        if done % self.agree_interval:
            return False
        return bool(agree(time.monotonic() - self.saved_s >= self.pause_s))

    def save_final(self, state: TrainState) -> None:
        """A run with nothing left to do: make sure its last checkpoint is there."""
        total = self.run.request.num_train_steps
        if agree(str(total) not in self.run.checkpoints.kept_leaves()):
            self.save(state, total)
        elif self.run.writes:
            self.sessions.write(self.watch)

    def save(self, state: TrainState, done: int) -> None:
        """Save the state after ``done`` updates, whose figures must be recorded already."""
        start_s = time.monotonic()
        kept = self.run.request.is_kept(done)
        with self.watch.measure("save"):
            gathered = gather_to_writer(state)
            if gathered is not None:
                self.run.journal.flush()
                self.run.checkpoints.save(gathered, chain=self.run.journal.digest, kept=kept)
        self.saved_s = time.monotonic()
        interval_s = self.run.request.resume_interval_s
        if interval_s > 0:
            self.pause_s = max(interval_s, SAVE_SHARE * (self.saved_s - start_s))
        if self.run.writes:
            self.sessions.write(self.watch)
