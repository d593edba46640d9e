"""The manifest as typed values: everything written or defaulted, nothing resolved.

Fields are the keys of the schema (a test compares them) and have no defaults here. What null stands
for (the preset's batch size, the dataset's repo_id, ...) is decided by the room that uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from appliance.digest import sha256_json
from appliance.errors import ManifestError
from appliance.manifest.finding import Finding

Part = TypeVar("Part")

CpuIsa = Literal["SSE4_2", "AVX", "AVX2", "AVX512", "AVX512_VNNI", "AVX512_BF16", "AMX", "AMX_FP16"]
EngineName = Literal["host", "docker", "slurm"]
TrainPreset = Literal[
    "pi0_tiny_aloha_robotwin", "pi0_base_aloha_robotwin_lora", "pi0_base_aloha_robotwin_full"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPart:
    """The dataset and what it must hash to; ``root`` counts from the manifest's folder."""

    repo_id: str
    root: str
    fingerprint: str
    media: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NormStatsPart:
    """Where normalization statistics come from; ``path`` is given with ``reuse`` only."""

    mode: Literal["recompute", "reuse"]
    subset: Literal["episodes_valid", "episodes", "anchors", "none"]
    asset_id: str | None
    path: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InitPart:
    """Initial weights; ``checkpoint`` counts from the manifest's folder."""

    checkpoint: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerPart:
    """A SentencePiece model; ``path`` counts from the manifest's folder."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPart:
    """One training run; None is the preset's batch size and FSDP devices, no saving between."""

    config: TrainPreset
    steps: int
    batch_size: int | None
    seed: int
    num_workers: int
    sampler: Literal["torch", "counter"]
    processes: int
    cpu_devices: int
    fsdp_devices: int | None
    freeze_mode: Literal["default", "strong"]
    budget_aware_schedule: bool
    budget_warmup_ratio: float
    budget_min_warmup_steps: int
    plan_aware_lr_scale: bool
    plan_target_effective_repeat: float
    plan_lr_scale_power: float
    plan_lr_min_scale: float
    sampler_seed_override: int | None
    sampler_replacement_override: bool | None
    save_interval: int | None
    init: InitPart | None
    tokenizer: TokenizerPart | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutPart:
    """RoboTwin with its assets, and its interpreter; paths count from the manifest's folder."""

    path: str
    python: str
    tree: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalPart:
    """One evaluation; ``checkpoint`` is a training step, ``"latest"`` or -1 (the same)."""

    simulator: Literal["robotwin", "robotwin-assets", "robotwin-checkout"]
    checkout: CheckoutPart | None
    embodiment: str
    planner: str
    shader: str
    task: str
    task_config: str
    checkpoint: int | str
    episodes: int
    seed: int
    policy_seed: int
    instruction_type: Literal["unseen", "seen"]
    action_steps: int
    query_batch: int
    call_timeout_s: int
    sampling_steps: int
    trials: tuple[int, ...] | None
    video: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimePart:
    """Where and how the stages run; ``image`` and what follows are for engine docker."""

    engine: EngineName
    cpu_threads: int
    cpu_max_isa: CpuIsa
    gpus: int
    network: Literal["none"]
    image: str | None
    image_digest: str | None
    memory_gib: float | None
    cpus: float | None
    pids: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessRatePart:
    """A claimed success rate; equivalence is tested within ``margin`` at level ``alpha``."""

    value: float
    margin: float
    alpha: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectPart:
    """Figures the run must come out with; null expects nothing."""

    plan_sha256: str | None
    norm_stats_sha256: str | None
    content_digest: str | None
    success_rate: SuccessRatePart | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One experiment, as declared. Equal when everything declared is equal, wherever it was read.

    ``plan`` holds the parameters of Plan-STaR section 1 by their names; None is the baseline.
    ``source_path`` is the file it was read from; ``warnings`` what a person should know about it.
    """

    version: int
    name: str
    dataset: DatasetPart
    plan: Mapping[str, Any] | None = field(hash=False)
    norm_stats: NormStatsPart
    train: TrainPart
    eval: EvalPart
    runtime: RuntimePart
    expect: ExpectPart | None
    source_path: Path = field(default=Path("manifest.yaml"), compare=False)
    warnings: tuple[Finding, ...] = field(default=(), compare=False)

    @classmethod
    def from_dict(
        cls,
        value: Mapping[str, Any],
        *,
        source_path: Path = Path("manifest.yaml"),
        warnings: tuple[Finding, ...] = (),
    ) -> Manifest:
        """A manifest from a normalized mapping: ``from_dict(as_dict(x)) == x``.

        Values are taken as they are; use ``load.parse_manifest`` for a mapping that may be wrong.
        Raises ManifestError when keys are missing or unknown.
        """
        parts = {key: _read_part(key, part) for key, part in value.items()}
        expected = {item.name for item in fields(cls)} - {"source_path", "warnings"}
        _check_keys("the manifest", set(parts), expected)
        return cls(**parts, source_path=source_path, warnings=warnings)

    def as_dict(self) -> dict[str, Any]:
        """The normalized manifest: JSON values, every key there, keys in the schema's order."""
        return {
            item.name: _plain(getattr(self, item.name))
            for item in fields(self)
            if item.name not in ("source_path", "warnings")
        }

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the normalized manifest's canonical JSON (RFC 8785)."""
        return sha256_json(self.as_dict())

    @property
    def base_dir(self) -> Path:
        """The folder from which relative paths in the manifest count."""
        return self.source_path.absolute().parent


_PARTS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "dataset": DatasetPart,
        "norm_stats": NormStatsPart,
        "train": TrainPart,
        "init": InitPart,
        "tokenizer": TokenizerPart,
        "eval": EvalPart,
        "checkout": CheckoutPart,
        "runtime": RuntimePart,
        "expect": ExpectPart,
        "success_rate": SuccessRatePart,
    }
)
"""The class of each key that holds a mapping; ``plan`` stays a mapping."""


def _read_part(key: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_read_part("", item) for item in value)
    if not isinstance(value, Mapping):
        return value
    if key not in _PARTS:
        return MappingProxyType({name: _read_part(name, item) for name, item in value.items()})
    part = _PARTS[key]
    read = {name: _read_part(name, item) for name, item in value.items()}
    _check_keys(key, set(read), {item.name for item in fields(part)})
    return part(**read)


def _check_keys(where: str, found: set[str], expected: set[str]) -> None:
    if found != expected:
        missing, unknown = sorted(expected - found), sorted(found - expected)
        raise ManifestError(
            f"{where}: not a normalized manifest (missing: {missing}, unknown: {unknown}). Read the"
            " manifest from its YAML file."
        )


def _plain(value: Any) -> Any:
    """The JSON form of a part: dataclasses and mappings to dict, tuples to list."""
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
