"""Training against a plain, fair baseline in the same run: step, data epoch, sampler, device wait.

The plain model does what the method says and no more: every noise draw goes through the whole model
(one attention over prefix and suffix, layers in a scan), trained by stock ``optax.adamw``; it is
jitted and gives its buffers away like ours, and its loss must agree with ours. The plain loader is
the stock ``DataLoader`` over per-item ``LeRobotDataset`` access, with the same transform.
Measurements of the two sides take turns, so that a busy machine hits both.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from appliance.dataset.frames import offline_dataset
from appliance.policy.augment import augment_batch, build_state_noise
from appliance.policy.model import TIME_ALPHA, make_attention_mask
from appliance.policy.observation import Observation, make_observation
from appliance.policy.parameters import Params, bind_model, make_key, nest_params
from appliance.policy.presets import PRESETS, FreezeConfig, TrainConfig
from appliance.policy.transforms import stack_items
from appliance.training.counter_sampler import CounterStream
from appliance.training.inputs import TrainInputs, read_inputs
from appliance.training.loop import NOT_MODEL_INPUT, train
from appliance.training.objective import STATE_NOISE, build_loss, initial_params
from appliance.training.optimizer import build_optimizer
from appliance.training.request import TrainRequest
from appliance.training.sampler import AddressedBatches
from appliance.training.step import build_step, start_state
from appliance.training.torch_sampler import TorchStream
from tests.benchmarks.figure import Figure
from tests.conftest import DATASET
from tests.training.small_run import REPO_ID, make_norm_stats, make_request

TINY: TrainConfig = PRESETS["pi0_tiny_aloha_robotwin"]
ROUNDS = 15
LARGE = 1 << 26
SAME_LOSS = 1e-4


def main() -> list[Figure]:
    """The figures of training's promises."""
    with tempfile.TemporaryDirectory() as folder:
        assets = Path(folder)
        make_norm_stats(assets / "norm_stats")
        request = make_request(assets, config=TINY, batch_size=None, num_train_steps=120)
        begun_s = time.perf_counter()
        inputs = read_inputs(request)
        decode_s = time.perf_counter() - begun_s
        return [
            *measure_step(request, inputs, ROUNDS),
            *measure_epoch(request, inputs, decode_s, None),
            *measure_device_wait(request, assets / "run"),
            *measure_sampler(LARGE),
        ]


def measure_step(request: TrainRequest, inputs: TrainInputs, rounds: int) -> list[Figure]:
    """One train step of the tiny configuration, ours and plain, in turns."""
    config = request.config
    batch = stack_items([inputs.items[(0, slot, 7 * slot)] for slot in range(config.batch_size)])
    batch = {name: value for name, value in batch.items() if name not in NOT_MODEL_INPUT}
    batch[STATE_NOISE] = build_state_noise(config, inputs.norm_stats)
    ours, plain = our_step(config), plain_step(config)
    losses = [float(step(batch)) for step in (ours, plain)]
    if abs(losses[0] - losses[1]) > SAME_LOSS * abs(losses[1]):
        raise AssertionError(f"the two sides do not compute the same loss: {losses}")
    our_s, plain_s = time_in_turns(lambda: ours(batch), lambda: plain(batch), rounds)
    return [
        Figure(
            name="train step of the tiny configuration, against a plain one",
            value=our_s / plain_s,
            unit="x",
            limit=1.0,
            note=f"{our_s * 1e3:.0f} ms against {plain_s * 1e3:.0f} ms, the same loss",
        )
    ]


def our_step(config: TrainConfig) -> Callable[[dict[str, Any]], Any]:
    """A function that takes our next step on a batch and waits for its loss."""
    optimizer = build_optimizer(config.optimizer)
    step = jax.jit(
        build_step(build_loss(config), optimizer, ema_decay=config.ema_decay), donate_argnums=0
    )
    params = initial_params(config, 1, FreezeConfig(), None)
    kept = [start_state(params, {}, optimizer, ema_decay=config.ema_decay)]
    key = make_key(5)

    def take(batch: dict[str, Any]) -> Any:
        kept[0], metrics = step(kept[0], batch, key, np.float32(1e-4))
        return jax.block_until_ready(metrics["loss"])

    return take


def plain_step(config: TrainConfig) -> Callable[[dict[str, Any]], Any]:
    """The same with the plain model and stock AdamW."""
    model = replace(config, model=replace(config.model, unroll=False))
    rule, decay = config.optimizer, config.ema_decay or 0.0
    adamw = optax.chain(
        optax.clip_by_global_norm(rule.clip_norm),
        optax.adamw(1e-4, b1=rule.b1, b2=rule.b2, eps=rule.eps, weight_decay=rule.weight_decay),
    )

    def step(state: Any, batch: dict[str, Any], key: jax.Array) -> tuple[Any, Any]:
        params, average, optimizer, count = state
        loss, gradients = jax.value_and_grad(plain_loss)(
            params, jax.random.fold_in(key, count), batch, model
        )
        updates, optimizer = adamw.update(gradients, optimizer, params)
        params = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
        return (params, average, optimizer, count + 1), loss

    jitted = jax.jit(step, donate_argnums=0)
    params = nest_params(initial_params(config, 1, FreezeConfig(), None))
    kept: list[Any] = [(params, jax.tree.map(jnp.copy, params), adamw.init(params), jnp.int32(0))]
    key = make_key(5)

    def take(batch: dict[str, Any]) -> Any:
        kept[0], loss = jitted(kept[0], batch, key)
        return jax.block_until_ready(loss)

    return take


def plain_loss(
    params: Params, key: jax.Array, batch: dict[str, Any], config: TrainConfig
) -> jax.Array:
    """The flow-matching loss, every draw through the whole model (pi0, "Loss and sampling")."""
    augment_key, flow_key = jax.random.split(key)
    noise_key, time_key = jax.random.split(flow_key)
    observation, actions = augment_batch(
        augment_key,
        make_observation(batch),
        batch["actions"],
        config.augmentation,
        batch[STATE_NOISE],
    )
    draws = config.noise_draws_per_sample
    noise = jax.random.normal(noise_key, (draws, *actions.shape), jnp.float32)
    uniform = jax.random.uniform(time_key, (draws, len(actions)), jnp.float32)
    times = uniform ** (1.0 / TIME_ALPHA) * 0.999 + 0.001
    losses = []
    for draw in range(draws):
        time_Bx1x1 = times[draw][:, None, None]
        noisy = time_Bx1x1 * noise[draw] + (1.0 - time_Bx1x1) * actions
        velocity = whole_pass(params, observation, noisy, times[draw], config)
        losses.append(jnp.mean(jnp.square(velocity - (noise[draw] - actions))))
    return jnp.mean(jnp.stack(losses))


def whole_pass(
    params: Params,
    observation: Observation,
    noisy: jax.Array,
    times: jax.Array,
    config: TrainConfig,
) -> jax.Array:
    """The velocity by one attention over all tokens; nothing is kept or reused."""
    model = bind_model(config.model, params)
    prefix, valid = model.embed_prefix(observation)
    suffix = model.embed_suffix(observation.state_BxS, noisy, times)
    whole = jnp.concatenate([valid, jnp.ones(suffix.shape[:2], bool)], axis=1)
    starts = jnp.zeros(whole.shape[1], bool)
    starts = starts.at[jnp.array([prefix.shape[1], prefix.shape[1] + 1])].set(True)
    mask = make_attention_mask(whole, starts)
    outputs, _ = model.PaliGemma.llm((prefix, suffix), jnp.cumsum(whole, axis=1) - 1, mask)
    return model.action_out_proj(outputs[1][:, -config.model.action_horizon :])


def measure_epoch(
    request: TrainRequest, inputs: TrainInputs, decode_s: float, most_batches: int | None
) -> list[Figure]:
    """One epoch of batches: ours from decoded frames, stock from lerobot item by item."""
    from appliance.training.data import build_loader

    steps = inputs.num_rows // request.batch
    steps = steps if most_batches is None else min(steps, most_batches)
    batches = AddressedBatches(inputs.stream, start_step=0, stop_step=steps)
    begun_s = time.perf_counter()
    ours = [batch["row"] for batch in build_loader(inputs.items, batches, num_workers=0)]
    our_s = time.perf_counter() - begun_s
    begun_s = time.perf_counter()
    with warnings.catch_warnings():  # torchvision's, about its own future
        warnings.simplefilter("ignore")
        stock = [batch["row"] for batch in stock_loader(request, inputs, ours)]
    stock_s = time.perf_counter() - begun_s
    if not all(np.array_equal(one, other) for one, other in zip(ours, stock, strict=True)):
        raise AssertionError("the two sides did not load the same items")
    items = steps * request.batch
    return [
        Figure(
            name="data epoch, against LeRobotDataset items in a stock DataLoader",
            value=our_s / stock_s,
            unit="x",
            limit=1.0,
            note=f"{our_s / items * 1e3:.2f} ms an item against {stock_s / items * 1e3:.2f} ms",
        ),
        Figure(
            name="  the same, the first time (every frame decoded once)",
            value=(our_s + decode_s) / stock_s,
            unit="x",
            note=f"{decode_s:.1f} s to read and decode, {items} items an epoch",
        ),
    ]


class StockItems:
    """Items of a ``LeRobotDataset`` with the policy's transform."""

    def __init__(self, dataset: Any, transform: Any, camera: str) -> None:
        self.dataset = dataset
        self.transform = transform
        self.camera = camera

    def __getitem__(self, row: int) -> dict[str, Any]:
        item = self.dataset[row]
        picture = (item[f"observation.images.{self.camera}"] * 255).round().byte()
        made = self.transform(
            {
                "images": {self.camera: picture.permute(1, 2, 0).numpy()},
                "state": item["observation.state"].numpy(),
                "actions": item["action"].numpy(),
                "prompt": item["task"],
            }
        )
        return {**made, "row": np.int64(row)}


def stock_loader(request: TrainRequest, inputs: TrainInputs, rows: list[Any]) -> Any:
    """The stock loader over the same rows in the same order."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from torch.utils.data import DataLoader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with offline_dataset(DATASET, REPO_ID) as opened:
            steps = [index / opened.fps for index in range(request.config.model.action_horizon)]
        dataset = LeRobotDataset(
            REPO_ID, DATASET, delta_timestamps={"action": steps}, video_backend="pyav"
        )
    transform = inputs.items.items.transform  # type: ignore[attr-defined]
    items = StockItems(dataset, transform, request.config.cameras[0][0])
    batches = [[int(row) for row in batch] for batch in rows]
    loader: Any = DataLoader(items, batch_sampler=batches, collate_fn=stack_items)  # type: ignore[arg-type]
    return loader


def measure_device_wait(request: TrainRequest, out: Path) -> list[Figure]:
    """A real run; the share of its loop in which the device was idle for want of data."""
    train(request, out / "content", out / "observed", out / "artifacts")
    (session,) = json.loads((out / "observed" / "timing.json").read_text())["sessions"]
    return [
        Figure(
            name="device wait of a tiny run, share of the loop",
            value=session["device_wait_fraction_at_most"],
            unit="",
            limit=0.05,
            note=f"{session['steps']} steps, {session['steps_per_s']:.1f} a second",
        )
    ]


def measure_sampler(num_items: int) -> list[Figure]:
    """32 draws anywhere in the counter sampler's stream, processor time."""
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.2, 5.0, num_items).astype(np.float32)
    begun_s = time.process_time()
    weighted = CounterStream(num_items=num_items, batch_size=32, seed=1, weights_N=weights)
    build_s = time.process_time() - begun_s
    shuffled = CounterStream(num_items=num_items, batch_size=32, seed=1)
    places = [0, num_items - 16, *rng.integers(0, 1 << 40, 100).tolist()]
    figures = []
    for name, stream in (("weighted", weighted), ("an epoch's end among them", shuffled)):
        # Of three draws far apart the quickest: a busy machine slows one, a slow place all three.
        spent = [
            min(
                processor_time(
                    lambda s=stream, p=place + far * 1_000_003 * num_items: s.draw(p, 32)
                )
                for far in range(3)
            )
            for place in places
        ]
        figures.append(
            Figure(
                name=f"32 draws anywhere at {num_items:,} anchors, {name}",
                value=max(spent) * 1e3,
                unit="ms",
                limit=5,
                note=f"median {statistics.median(spent) * 1e3:.2f} ms",
            )
        )
    few = num_items >> 4
    stock = TorchStream(num_items=few, batch_size=32, seed=1, weights_N=weights[:few])
    stall_s = processor_time(lambda: next(stock.batches()))
    note = f"torch needs {stall_s:.2f} s at the start of every epoch of {few:,}"
    return [*figures, Figure(name="  table built once", value=build_s, unit="s", note=note)]


def processor_time(work: Callable[[], Any]) -> float:
    """Processor seconds of ``work``."""
    begun_s = time.process_time()
    work()
    return time.process_time() - begun_s


def time_in_turns(
    ours: Callable[[], Any], other: Callable[[], Any], rounds: int
) -> tuple[float, float]:
    """Median seconds of each, one after the other ``rounds`` times."""
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for work, kept in zip((ours, other), spent, strict=True):
            begun_s = time.perf_counter()
            work()
            kept.append(time.perf_counter() - begun_s)
    return statistics.median(spent[0]), statistics.median(spent[1])
