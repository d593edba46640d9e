"""Train a pi0 on synthetic frames and say how fast, in how much memory, and whether twice alike.

``python -m tests.benchmarks.full_size --config pi0_base_aloha_robotwin_lora --steps 30`` on a GPU;
``--config dummy`` is the same code at openpi's dummy size, for any machine. Random weights, the
training room's own step (augmentation, EMA, freezing), pictures made of noise. The second run is
a process of its own, and neither finds compiled programs, so that what XLA picks while compiling
is picked twice. Steps are timed after the first two. Utilization is model operations
(``model_flops``) over what the device could do: its data sheet's figure where it is known, and
what a large matrix product of the compute type reaches here, measured in the same run.
Products of the compiled step are counted by the types they multiply (``product_types``).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from appliance.digest import sha256_json
from appliance.engine.host import DETERMINISTIC_GPU_FLAGS
from appliance.policy.config import GEMMA_VARIANTS, LoraConfig, SiglipConfig
from appliance.policy.presets import LORA_FREEZE, PRESETS, TrainConfig
from tests.benchmarks.model_flops import count_step
from tests.benchmarks.product_types import count_product_operations, share_of

if TYPE_CHECKING:
    from appliance.training.optimizer import FreezeMode
    from appliance.training.step import TrainState

WARM_STEPS = 2
POOL = 4
# Dense bfloat16 operations a second, from the makers' data sheets, by part of the device's name.
DATA_SHEETS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}


def make_config(name: str) -> TrainConfig:
    """A preset, or ``dummy``: openpi's dummy experts with adapters, all 867 tokens, bfloat16."""
    if name != "dummy":
        return PRESETS[name]
    preset = PRESETS["pi0_base_aloha_robotwin_lora"]
    lora = LoraConfig(rank=16, alpha=16.0)
    expert = replace(GEMMA_VARIANTS["dummy"], attention_lora=lora, mlp_lora=lora)
    tower = SiglipConfig(
        width=64, depth=2, mlp_dim=128, num_heads=4, patch_size=14, zero_head=False
    )
    model = replace(
        preset.model, paligemma=expert, action_expert=expert, vision=tower, vocabulary=512
    )
    return replace(preset, name="dummy", model=model, batch_size=2, freeze=LORA_FREEZE)


def make_batches(config: TrainConfig, batch_size: int) -> list[dict[str, Any]]:
    """A few batches of synthetic frames, as the loader would give them."""
    import numpy as np

    from appliance.streams import stream

    model = config.model

    def make(index: int) -> dict[str, Any]:
        generator = stream(0, "synthetic", index)
        pixels = (batch_size, *model.image_size, 3)
        tokens = (batch_size, model.max_token_len)
        actions = (batch_size, model.action_horizon, model.action_dim)
        state = (batch_size, model.action_dim)
        return {
            "image": {
                key: generator.integers(0, 256, pixels, np.uint8) for key in model.image_keys
            },
            "image_mask": {key: np.ones(batch_size, bool) for key in model.image_keys},
            "state": generator.standard_normal(state, np.float32),
            "actions": generator.standard_normal(actions, np.float32),
            "tokenized_prompt": generator.integers(1, model.vocabulary, tokens, np.int32),
            "tokenized_prompt_mask": np.ones(tokens, bool),
        }

    return [make(index) for index in range(POOL)]


class Trainer:
    """One compiled step on all devices, and the means to run it from the start again."""

    def __init__(
        self, config: TrainConfig, freeze_mode: FreezeMode, batch_size: int, fsdp_devices: int
    ) -> None:
        from appliance.training.mesh import build_mesh
        from appliance.training.optimizer import freeze_rule

        self.config = config
        self.freeze = freeze_rule(config.freeze, freeze_mode)
        self.batches = make_batches(config, batch_size)
        self.mesh = build_mesh(fsdp_devices)
        self.step: Any = None
        self.compile_s = 0.0

    def start(self) -> TrainState:
        """Random parameters and everything else before the first step, on the devices."""
        import jax

        from appliance.training.mesh import place_tree, tree_shardings
        from appliance.training.objective import initial_params
        from appliance.training.optimizer import build_optimizer, split_frozen
        from appliance.training.step import start_state

        params = initial_params(self.config, 0, self.freeze, None)
        placed = place_tree(params, tree_shardings(self.mesh, params))
        optimizer = build_optimizer(self.config.optimizer)

        def begin(trained: Any, frozen: Any) -> TrainState:
            return start_state(trained, frozen, optimizer, ema_decay=self.config.ema_decay)

        parts = split_frozen(placed, self.freeze)
        shardings = tree_shardings(self.mesh, jax.eval_shape(begin, *parts))
        state: TrainState = jax.jit(begin, out_shardings=shardings)(*parts)
        return state

    def place(self, index: int) -> dict[str, Any]:
        """The batch of a step, on the devices."""
        from appliance.training.mesh import batch_sharding, place_batch
        from appliance.training.objective import STATE_NOISE

        batch = place_batch(self.batches[index % POOL], batch_sharding(self.mesh))
        return {**batch, STATE_NOISE: None}

    def compile_for(self, *arguments: Any) -> None:
        """Make the training room's step for arguments of these shapes, once."""
        import jax

        from appliance.training.loop import compile_for_shapes

        if self.step is None:
            start_s = time.perf_counter()
            leaves, form = jax.tree.flatten(arguments)
            shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
            self.step = compile_for_shapes(self.config, self.mesh, form, shapes)
            self.compile_s = time.perf_counter() - start_s

    def run(self, steps: int) -> Iterator[tuple[float, str]]:
        """Seconds and loss bits of each step from the start; last the digest of what it served."""
        import numpy as np

        from appliance.policy.checkpoint import digest_leaves
        from appliance.policy.parameters import make_key
        from appliance.training.mesh import gather_tree

        state, key, rate = self.start(), make_key(0), np.float32(1e-5)
        self.compile_for(state, self.place(0), key, rate)
        for index in range(steps):
            start_s = time.perf_counter()
            state, metrics = self.step(state, self.place(index), key, rate)
            loss = float(metrics["loss"])
            yield time.perf_counter() - start_s, loss.hex()
        yield 0.0, sha256_json(digest_leaves(gather_tree(state.served)))


def measure_device(dtype: str) -> float:
    """Operations a second that a large matrix product reaches on the first device."""
    import jax
    import jax.numpy as jnp

    size = 1024 if jax.default_backend() == "cpu" else 8192
    left = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda x: x @ x)
    multiply(left).block_until_ready()
    best_s = float("inf")
    for _ in range(5):
        start_s = time.perf_counter()
        multiply(left).block_until_ready()
        best_s = min(best_s, time.perf_counter() - start_s)
    return 2 * size**3 / best_s


def make_trainer(options: argparse.Namespace) -> Trainer:
    """The trainer that the command line asks for."""
    config = make_config(options.config)
    batch_size = options.batch_size or config.batch_size
    return Trainer(config, options.freeze_mode, batch_size, options.fsdp_devices)


def run_elsewhere(words: Sequence[str]) -> list[tuple[float, str]]:
    """What ``Trainer.run`` yields in a new process; to be called before this one takes a device."""
    command = [sys.executable, "-m", "tests.benchmarks.full_size", *words, "--only-run"]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(done.returncode)
    return [(step_s, bits) for step_s, bits in json.loads(done.stdout.splitlines()[-1])]


def describe(options: argparse.Namespace, second: list[tuple[float, str]]) -> dict[str, Any]:
    """Run here and gather the figures; ``second`` is the run elsewhere."""
    import jax

    trainer = make_trainer(options)
    config, batch_size = trainer.config, len(trainer.batches[0]["state"])
    first = list(trainer.run(options.steps))
    device = jax.devices()[0]
    seconds = [step_s for step_s, _ in first[WARM_STEPS:-1] + second[WARM_STEPS:-1]]
    step_s = statistics.median(seconds)
    flops = count_step(config, trainer.freeze).step * batch_size
    sheet = next((rate for part, rate in DATA_SHEETS.items() if part in device.device_kind), None)
    reached = measure_device(config.model.dtype) * jax.device_count()
    sheet = None if sheet is None else sheet * jax.device_count()
    memory = trainer.step.memory_analysis()
    products = count_product_operations(trainer.step.as_text())
    in_use = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return {
        "config": config.name,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "fsdp_devices": options.fsdp_devices,
        "backend": jax.default_backend(),
        "jax": jax.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "compute_dtype": config.model.dtype,
        "batch_size": batch_size,
        "freeze_mode": options.freeze_mode,
        "compile_s": round(trainer.compile_s, 1),
        "step_s": round(step_s, 4),
        "steps_per_s": round(1 / step_s, 4),
        "device_memory_peak_gib": None if in_use is None else round(in_use / 2**30, 2),
        "program_memory_gib": round(
            (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30, 3
        ),
        "model_tflop_a_step": round(flops / 1e12, 4),
        "utilization_of_data_sheet": None if sheet is None else round(flops / step_s / sheet, 4),
        "utilization_of_matrix_product": round(flops / step_s / reached, 4),
        "matrix_product_tflop_a_s": round(reached / 1e12, 4),
        "product_gflop_by_operands": {name: n / 1e9 for name, n in sorted(products.items())},
        "bf16_share_of_products": share_of("bf16", products),
        "two_runs_alike": [bits for _, bits in first] == [bits for _, bits in second],
        "served_sha256": first[-1][1],
    }


def main() -> None:
    """Print the figures, one a line or as JSON; exit with 1 when two runs differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.full_size")
    parser.add_argument("--config", choices=["dummy", *PRESETS], default="dummy")
    parser.add_argument("--steps", type=int, default=10, help="more than two, which warm up")
    parser.add_argument("--batch-size", type=int, help="the preset's when not given")
    parser.add_argument("--fsdp-devices", type=int, default=1, help="devices that share a state")
    parser.add_argument("--freeze-mode", choices=["default", "strong"], default="default")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only-run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps <= WARM_STEPS:
        parser.error(f"--steps: {options.steps} is too few; the first {WARM_STEPS} warm up")
    elsewhere = [] if options.only_run else run_elsewhere(sys.argv[1:])
    flags = (os.environ.get("XLA_FLAGS", ""), *DETERMINISTIC_GPU_FLAGS)
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    import jax

    if jax.device_count() % options.fsdp_devices:
        parser.error(f"--fsdp-devices: does not divide the {jax.device_count()} devices here")
    if options.only_run:
        print(json.dumps(list(make_trainer(options).run(options.steps))))
        return
    figures = describe(options, elsewhere)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<32} {value}")
    if not figures["two_runs_alike"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
