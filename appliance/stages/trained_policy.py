"""A trained policy and where its files lie: in a run folder, or in a checkpoint's own folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.digest import sha256_file, tree_digest
from appliance.errors import CheckpointError, NormStatsError
from appliance.files import read_json, storage_errors
from appliance.manifest.model import Manifest
from appliance.policy.presets import PRESETS, TrainConfig
from appliance.stages.train import EXP_NAME

if TYPE_CHECKING:
    from appliance.policy.inference import Policy

PARAMS = "params"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFiles:
    """What a trained policy is made of.

    ``config`` has the cameras it was trained with, not those that were masked; ``recorded_leaves``
    are the digests its training wrote down, None for a checkpoint from elsewhere;
    ``tokenizer_path`` is a SentencePiece model, of SHA-256 ``tokenizer_sha256``, where the preset's
    own tokenizer does not read the prompts.
    """

    config: TrainConfig
    step: int
    params_dir: Path
    norm_stats_path: Path
    recorded_leaves: Mapping[str, str] | None = None
    tokenizer_path: Path | None = None
    tokenizer_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedPolicy:
    """A policy, ready to be asked, and the figures a record names it by."""

    policy: Policy
    config: TrainConfig
    identity: Mapping[str, Any]


def find_after_training(
    manifest: Manifest,
    train: Path,
    norm_stats: Path,
    which: int | str,
    *,
    files: Mapping[str, Path],
) -> PolicyFiles:
    """The policy in the folders of the stages train and norm_stats. Raises CheckpointError.

    The tokenizer is the one training had; ``files`` (as of a ``StageContext``) say where it lies.
    """
    from appliance.evaluation.checkpoints import find_checkpoint

    config = PRESETS[manifest.train.config]
    named = manifest.train.tokenizer
    checkpoints = train / "artifacts" / "checkpoints" / config.name / EXP_NAME
    step, folder = find_checkpoint(checkpoints, which)
    return PolicyFiles(
        config=without_masked_cameras(config, read_json(train / "content" / "run_summary.json")),
        step=step,
        params_dir=folder / PARAMS,
        norm_stats_path=norm_stats / "content" / "norm_stats.json",
        recorded_leaves=read_json(train / "content" / "checkpoint_leaves.json")[str(step)],
        tokenizer_path=None if named is None else files["train.tokenizer.path"],
        tokenizer_sha256=None if named is None else named.sha256,
    )


def find_in_checkpoint(
    checkpoint: Path,
    config: TrainConfig,
    *,
    which: int | str | None = None,
    norm_stats: Path | None = None,
    tokenizer: Path | None = None,
    tokenizer_sha256: str | None = None,
) -> PolicyFiles:
    """The policy in a checkpoint of openpi's layout.

    ``checkpoint`` is the folder of one (with ``params`` in it) or of several by number, of which
    ``which`` is taken, by default the last. Without ``norm_stats`` the checkpoint's own are taken,
    if it holds one set; without ``tokenizer_sha256`` the file ``tokenizer`` is taken as it is. A
    training of this program says beside its checkpoints which cameras were masked.
    Raises CheckpointError, NormStatsError, StorageError.
    """
    from appliance.evaluation.checkpoints import find_checkpoint

    if (checkpoint / PARAMS).is_dir() and which is None:
        step, folder = int(checkpoint.name) if checkpoint.name.isdecimal() else 0, checkpoint
    else:
        step, folder = find_checkpoint(checkpoint, "latest" if which is None else which)
    if tokenizer is not None and tokenizer_sha256 is None:
        with storage_errors(tokenizer, "reading the tokenizer model"):
            tokenizer_sha256 = sha256_file(tokenizer)
    return PolicyFiles(
        config=without_masked_cameras(config, _recorded_inputs(folder.parent)),
        step=step,
        params_dir=folder / PARAMS,
        norm_stats_path=norm_stats or _own_norm_stats(folder),
        tokenizer_path=tokenizer,
        tokenizer_sha256=tokenizer_sha256,
    )


def without_masked_cameras(config: TrainConfig, trained_on: Mapping[str, Any]) -> TrainConfig:
    """``config`` without the ``masked_cameras`` that training recorded of what it was given.

    A simulator renders, and a policy is shown, only what the policy was trained with.
    """
    masked = trained_on.get("masked_cameras", [])
    kept = tuple((camera, key) for camera, key in config.cameras if camera not in masked)
    return replace(config, cameras=kept)


def _recorded_inputs(checkpoints: Path) -> Mapping[str, Any]:
    """What a training of this program says it read; empty for checkpoints from elsewhere."""
    path = checkpoints / "training.json"
    identity = read_json(path) if path.is_file() else {}
    inputs = identity.get("inputs") if isinstance(identity, Mapping) else None
    return inputs if isinstance(inputs, Mapping) else {}


def _own_norm_stats(checkpoint: Path) -> Path:
    found = sorted((checkpoint / "assets").glob("**/norm_stats.json"))
    if len(found) != 1:
        held = f"{len(found)} sets of" if found else "no"
        raise NormStatsError(
            f"{checkpoint}: the checkpoint holds {held} normalization statistics (assets/*/"
            "norm_stats.json). Name the file with --norm-stats."
        )
    return found[0]


def open_policy(files: PolicyFiles, *, sampling_steps: int) -> OpenedPolicy:
    """Load the policy. Raises CheckpointError, also when training recorded other parameters."""
    from appliance.norm_stats.files import read_norm_stats
    from appliance.policy.checkpoint import digest_leaves, load_params
    from appliance.policy.inference import Policy
    from appliance.policy.parameters import abstract_params
    from appliance.policy.tokenizer import make_tokenizer

    norm_stats = read_norm_stats(files.norm_stats_path)
    tokenizer = make_tokenizer(
        files.config, model_path=files.tokenizer_path, model_sha256=files.tokenizer_sha256
    )
    params = load_params(files.params_dir, abstract_params(files.config.model))
    leaves = digest_leaves(params)
    if files.recorded_leaves is not None:
        _check_leaves(files, leaves)
    policy = Policy(
        params, files.config, norm_stats, sampling_steps=sampling_steps, tokenizer=tokenizer
    )
    identity: dict[str, Any] = {
        "config": files.config.name,
        "checkpoint": files.step,
        "params": tree_digest(leaves),
        "tokenizer": policy.tokenizer_name,
        "sampling_steps": sampling_steps,
    }
    if files.recorded_leaves is None:
        identity["norm_stats"] = "sha256:" + sha256_file(files.norm_stats_path)
    return OpenedPolicy(policy=policy, config=files.config, identity=identity)


def _check_leaves(files: PolicyFiles, leaves: Mapping[str, str]) -> None:
    recorded = files.recorded_leaves or {}
    changed = sorted(
        name for name in {*recorded, *leaves} if recorded.get(name) != leaves.get(name)
    )
    if changed:
        raise CheckpointError(
            f"checkpoint {files.step} in {files.params_dir}: {len(changed)} parameters are not"
            f" those that training recorded, first {changed[0]}. The checkpoint was changed after"
            " training; run the train stage again."
        )
