"""What one training run is asked to do, and the checks that need nothing but the request.

``describe_request`` is the configuration in force as plain data: everything that decides the
result, nothing that does not (paths, workers, how often a resume point is saved).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.errors import TrainingError
from appliance.policy.presets import ScheduleConfig, TrainConfig
from appliance.training.schedule import BudgetRule, RepeatRule, fit_budget

if TYPE_CHECKING:
    from appliance.training.optimizer import FreezeMode
    from appliance.training.sampler import SamplerName

ProgressCallback = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, a short text)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialWeights:
    """A checkpoint to start from and its digest: SHA-256 of a file, tree digest of a folder."""

    checkpoint: Path
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFile:
    """A SentencePiece model of the user's and its SHA-256; byte-level presets need none."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """One training run (Plan-STaR 3, the table).

    Attributes:
        config: the preset.
        exp_name: checkpoints lie under ``checkpoints/<config.name>/<exp_name>/<step>/``.
        repo_id: the dataset's name; a plan must name the same.
        dataset_root: the LeRobotDataset's folder.
        norm_stats_path: ``norm_stats.json`` or the folder that holds it.
        num_train_steps: the budget; 0 keeps the initial parameters as checkpoint 0.
        batch_size: samples a step, None for the preset's.
        seed: root of parameters, noise, augmentation and, without a plan, of the shuffling.
        num_workers: processes that load data; changes no result.
        sampler: ``torch``, the method's own, or ``counter``, which takes any number of anchors.
        fsdp_devices: devices that share one copy of the large parameters; None for the preset's.
        sampling_plan_path: folder, ``plan_meta.json`` or ``plan_arrays.npz``; None = baseline.
        asset_id: the name the statistics are stored under in a checkpoint; None = ``repo_id``.
        save_interval: steps between kept checkpoints; None keeps the last one only.
        resume, overwrite: go on with, or set aside, what an earlier run left; never both.
        cache_dir: folder for decoded frames, None = in memory; changes no result.
        resume_interval_s: seconds between resume points, 0 = every step; changes no result.
        parameter_root_interval: steps between parameter roots in the hash chain.
    """

    config: TrainConfig
    exp_name: str
    repo_id: str
    dataset_root: Path
    norm_stats_path: Path
    num_train_steps: int
    batch_size: int | None = None
    seed: int = 42
    num_workers: int = 2
    sampler: SamplerName = "torch"
    fsdp_devices: int | None = None
    sampling_plan_path: Path | None = None
    sampler_seed_override: int | None = None
    sampler_replacement_override: bool | None = None
    freeze_mode: FreezeMode = "default"
    budget_aware_schedule: bool = False
    budget: BudgetRule = field(default_factory=BudgetRule)
    plan_aware_lr_scale: bool = False
    repeat: RepeatRule = field(default_factory=RepeatRule)
    asset_id: str | None = None
    save_interval: int | None = None
    init: InitialWeights | None = None
    tokenizer: TokenizerFile | None = None
    resume: bool = False
    overwrite: bool = False
    cache_dir: Path | None = None
    resume_interval_s: float = 30.0
    parameter_root_interval: int = 100

    @property
    def batch(self) -> int:
        """The batch size in force."""
        return self.config.batch_size if self.batch_size is None else self.batch_size

    @property
    def fsdp(self) -> int:
        """The devices in force that share one copy of the large parameters."""
        return self.config.fsdp_devices if self.fsdp_devices is None else self.fsdp_devices

    @property
    def asset(self) -> str:
        """The asset id in force."""
        return self.repo_id if self.asset_id is None else self.asset_id

    @property
    def num_draws(self) -> int:
        """Steps x batch size: samples drawn in the whole run."""
        return self.num_train_steps * self.batch

    def is_kept(self, step: int) -> bool:
        """Whether the checkpoint of ``step`` finished updates is kept."""
        if step == self.num_train_steps:
            return True
        return self.save_interval is not None and step > 0 and step % self.save_interval == 0


def check_request(request: TrainRequest, num_devices: int) -> None:
    """Refuse what cannot work before anything is read. Raises TrainingError."""
    check_choice(resume=request.resume, overwrite=request.overwrite)
    _check_at_least(request.num_train_steps, 0, "num_train_steps")
    _check_at_least(request.batch, 1, "batch_size")
    _check_at_least(request.num_workers, 0, "num_workers")
    _check_at_least(request.parameter_root_interval, 1, "parameter_root_interval")
    if request.save_interval is not None:
        _check_at_least(request.save_interval, 1, "save_interval")
    _check_at_least(request.fsdp, 1, "fsdp_devices")
    if num_devices % request.fsdp:
        raise TrainingError(
            f"Number of devices {num_devices} must be divisible by fsdp_devices {request.fsdp}."
            " Change train.fsdp_devices or use another number of devices."
        )
    if request.batch % num_devices:
        raise TrainingError(
            f"Batch size {request.batch} must be divisible by the number of devices {num_devices}."
            " Change train.batch_size or use fewer devices."
        )
    if request.plan_aware_lr_scale and request.sampling_plan_path is None:
        raise TrainingError(
            "plan_aware_lr_scale needs a sampling plan, and this run has none. Switch it off, or"
            " give a plan."
        )
    overrides = (request.sampler_seed_override, request.sampler_replacement_override)
    if request.sampling_plan_path is None and overrides != (None, None):
        raise TrainingError(
            "sampler_seed_override and sampler_replacement_override change a plan's values, and"
            " this run has no plan. Leave them out, or give a plan."
        )
    if request.sampler not in ("torch", "counter"):
        raise TrainingError(f"sampler: {request.sampler!r} is not known. Use torch or counter.")
    if request.freeze_mode not in ("default", "strong"):
        raise TrainingError(
            f"freeze_mode: {request.freeze_mode!r} is not known. Use default or strong."
        )


def check_choice(*, resume: bool, overwrite: bool) -> None:
    """One of both, or neither. Raises TrainingError."""
    if resume and overwrite:
        raise TrainingError(
            "Cannot resume and overwrite at the same time. Choose one: resume goes on with the"
            " earlier run, overwrite sets it aside and starts anew."
        )


def _check_at_least(value: int, least: int, name: str) -> None:
    if value < least:
        raise TrainingError(f"{name}: {value} is too small. Use {least} or more.")


def budget_schedule(request: TrainRequest) -> ScheduleConfig:
    """The preset's schedule, fitted to the budget when the request asks for it."""
    if not request.budget_aware_schedule:
        return request.config.schedule
    return fit_budget(request.config.schedule, request.num_train_steps, request.budget)


def describe_request(request: TrainRequest) -> dict[str, Any]:
    """The request as JSON data, with the overrides in force and without what changes no result."""
    return {
        "train_config": plain_data(request.config),
        "exp_name": request.exp_name,
        "repo_id": request.repo_id,
        "asset_id": request.asset,
        "num_train_steps": request.num_train_steps,
        "batch_size": request.batch,
        "seed": request.seed,
        "freeze_mode": request.freeze_mode,
        "sampler": request.sampler,
        "fsdp_devices": request.fsdp,
        "sampler_seed_override": request.sampler_seed_override,
        "sampler_replacement_override": request.sampler_replacement_override,
        "budget_aware_schedule": request.budget_aware_schedule,
        "budget_warmup_ratio": request.budget.warmup_ratio,
        "budget_min_warmup_steps": request.budget.min_warmup_steps,
        "plan_aware_lr_scale": request.plan_aware_lr_scale,
        "plan_target_effective_repeat": request.repeat.target_effective_repeat,
        "plan_lr_scale_power": request.repeat.power,
        "plan_lr_min_scale": request.repeat.min_scale,
        "save_interval": request.save_interval,
        "parameter_root_interval": request.parameter_root_interval,
        "init_sha256": None if request.init is None else request.init.sha256,
        "tokenizer_sha256": None if request.tokenizer is None else request.tokenizer.sha256,
    }


def plain_data(value: Any) -> Any:
    """Dataclasses and tuples as JSON's own types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: plain_data(getattr(value, field.name)) for field in fields}
    if isinstance(value, tuple | list):
        return [plain_data(entry) for entry in value]
    return value
