"""`train`: claim the run's folder, train in the pinned environment, say what came of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from appliance.cli.places import user_cache_dir
from appliance.cli.policies import LEARNING, enter_environment, require_libraries
from appliance.cli.progress import show_progress
from appliance.cli.train_flags import check_name, collect_runtime_part, collect_train_part
from appliance.digest import sha256_file
from appliance.errors import ApplianceError, InterruptedCommandError, TrainingError
from appliance.files import read_json, storage_errors
from appliance.manifest.model import InitPart, TokenizerPart, TrainPart
from appliance.manifest.rules import SMALL_PRESETS
from appliance.norm_stats.files import norm_stats_path
from appliance.policy.presets import PRESETS
from appliance.stages.definition import CONTENT, OBSERVED
from appliance.stages.run_folder import claim
from appliance.stages.train import layout_of, request_of
from appliance.training.request import check_choice

if TYPE_CHECKING:
    from appliance.training.request import TrainRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a run goes, and what to do with an earlier one there."""

    out_dir: Path
    exp_name: str
    resume: bool
    overwrite: bool

    def folder(self, config: str) -> Path:
        """``checkpoints/<config>/<exp_name>``: the checkpoints, ``content``, ``observed``."""
        return self.out_dir / "checkpoints" / config / self.exp_name

    def check(self, config: str) -> None:
        """Refuse what cannot be meant. Raises TrainingError, typer.BadParameter."""
        check_choice(resume=self.resume, overwrite=self.overwrite)
        name = self.exp_name
        if not name or name.startswith(".") or Path(name).name != name:
            raise typer.BadParameter(f"--exp-name {name!r}: not a plain name for a folder")
        folder = self.folder(config)
        if folder.exists() and not (self.resume or self.overwrite):
            raise TrainingError(
                f"{folder}: an earlier run of this name is here. Add --resume to go on with it,"
                " --overwrite to set it aside and start anew, or take another --exp-name."
            )


def train_policy(
    target: Target,
    settings: Mapping[str, Any],
    *,
    dataset_root: Path,
    repo_id: str | None,
    num_train_steps: int | None,
    sampling_plan_path: Path | None,
    norm_stats: Path | None,
    asset_id: str | None,
    init: Path | None,
    init_sha256: str | None,
    tokenizer: Path | None,
    as_json: bool,
) -> None:
    """Train, or go on training. Raises any ApplianceError; what was saved is kept."""
    preset = PRESETS[settings["config"]]
    target.check(preset.name)
    check_name("repo_id", repo_id, ("dataset", "repo_id"))
    check_name("asset_id", asset_id, ("norm_stats", "asset_id"))
    part = collect_train_part(
        settings,
        steps=preset.num_train_steps if num_train_steps is None else num_train_steps,
        init=_name_init(init, init_sha256),
        tokenizer=_name_tokenizer(tokenizer),
    )
    require_libraries("Training", *LEARNING, "optax", "torch", "lerobot", "av")
    runtime = collect_runtime_part(settings)
    enter_environment(runtime)
    _warn_of_random_weights(part)
    name = repo_id or dataset_root.resolve().name
    default_stats = norm_stats_path(Path("assets"), preset.name, asset_id or name)
    request = request_of(
        part,
        files={
            key: path
            for key, path in (
                ("train.init.checkpoint", init),
                ("train.tokenizer.path", tokenizer),
            )
            if path is not None
        },
        exp_name=target.exp_name,
        repo_id=name,
        dataset_root=dataset_root,
        norm_stats_path=norm_stats or default_stats,
        sampling_plan_path=sampling_plan_path,
        asset_id=asset_id,
        resume=target.resume,
        overwrite=target.overwrite,
        cache_dir=user_cache_dir() / "scratch" / "frames",
    )
    folder = target.folder(preset.name)
    with _claimed(folder):
        _train(request, part, target.out_dir, folder, gpus=runtime.gpus)
    typer.echo(_describe(folder, part.steps, as_json=as_json))


def _train(
    request: TrainRequest, part: TrainPart, out_dir: Path, folder: Path, *, gpus: int
) -> None:
    from appliance.training.processes import Folders, train_by_layout

    folders = Folders(content=folder / CONTENT, observed=folder / OBSERVED, artifacts=out_dir)
    earlier = _identify(folder)
    try:
        with show_progress("train") as progress:
            train_by_layout(request, folders, layout_of(part, gpus=gpus), progress)
    except (ApplianceError, KeyboardInterrupt) as error:
        if request.resume or _identify(folder) == earlier:
            raise  # the same command again is right
        instead = " in place of --overwrite" if request.overwrite else ""
        advice = f"To go on from what was saved, give the same command with --resume{instead}."
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedCommandError(advice) from error
        error.add_note(advice)
        raise


def _identify(folder: Path) -> int | None:
    """Another number when a run has made its folder anew; None without one."""
    with contextlib.suppress(OSError):
        return folder.stat().st_ino
    return None


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Hold the run, by a file beside its folder, which may be set aside meanwhile."""
    with storage_errors(folder.parent, "making the output folder"):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with claim(folder.with_name(f".{folder.name}.busy"), folder, "another --exp-name"):
        yield


def _name_init(path: Path | None, sha256: str | None) -> InitPart | None:
    if (path is None) != (sha256 is None):
        raise typer.BadParameter("--init and --init-sha256 go together: weights and their digest")
    return None if path is None or sha256 is None else InitPart(checkpoint=str(path), sha256=sha256)


def _name_tokenizer(path: Path | None) -> TokenizerPart | None:
    if path is None:
        return None
    with storage_errors(path, "reading the tokenizer model"):
        return TokenizerPart(path=str(path), sha256=sha256_file(path))


def _warn_of_random_weights(part: TrainPart) -> None:
    if part.init is None and part.config not in SMALL_PRESETS:
        typer.echo(
            f"warning: {part.config} starts from random weights, not from pi0's. Such a policy is"
            " good for timing only; give --init and --init-sha256 for results.",
            err=True,
        )


def _describe(folder: Path, steps: int, *, as_json: bool) -> str:
    summary = read_json(folder / CONTENT / "run_summary.json")
    checkpoint = folder / str(steps)
    if as_json:
        value = {"folder": str(folder), "checkpoint": str(checkpoint), "run_summary": summary}
        return json.dumps(value, indent=2, sort_keys=True)
    lines = [
        f"Trained {steps} steps: {checkpoint}",
        f"  hash chain {summary['hash_chain']}",
        f"  summary    {folder / CONTENT / 'run_summary.json'}",
    ]
    return "\n".join(lines)
