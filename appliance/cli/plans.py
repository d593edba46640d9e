"""The work of the `plan` commands: read, call the rooms, print for people or for machines."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import typer

from appliance.cli.plan_text import describe_exposure, describe_summary
from appliance.dataset.columns import STATE, read_columns, read_info, read_plan_columns
from appliance.dataset.fingerprint import Fingerprint, fingerprint_columns
from appliance.episodes import FrameColumns
from appliance.errors import PlanError, RuntimeMissingError
from appliance.plan.build import build_plan
from appliance.plan.compare import compare_plans
from appliance.plan.exposure import Exposure, compute_exposure
from appliance.plan.files import read_plan, write_plan
from appliance.plan.params import PlanParams
from appliance.plan.plan import ARRAYS_FILE, META_FILE, Plan
from appliance.plan.verify import verify_plan_files, verify_rebuild
from appliance.policy.presets import PRESETS
from appliance.report.plan_summary import summarize_plan, view_episode


def build(
    root: Path,
    out_dir: Path,
    params: PlanParams,
    *,
    repo_id: str,
    train_config: str,
    action_horizon: int | None,
    batch_size: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Build a plan and write it. Raises PlanError, DatasetError, StorageError."""
    horizon, batch = _resolve_sizes(train_config, action_horizon, batch_size)
    _refuse_overwriting(out_dir, overwrite=overwrite)
    columns, fingerprint = read_plan_inputs(root)
    with _warnings_unlogged():
        plan = build_plan(
            columns,
            params,
            repo_id=repo_id,
            train_config_name=train_config,
            action_horizon=horizon,
            batch_size=batch,
            dataset_fingerprint=None if fingerprint is None else fingerprint.value,
            created_at_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            episode_digests=None if fingerprint is None else fingerprint.episodes,
        )
    write_plan(plan, out_dir)
    exposure = compute_exposure(plan.weights, plan.stage_ids, 0, params.replacement)
    warnings = [*plan.warnings, *exposure.warnings]
    if as_json:
        value = {"out_dir": str(out_dir), **summarize_plan(plan).to_mapping()}
        _print_json({**value, "warnings": warnings})
        return
    _print_warnings(warnings)
    typer.echo(f"{out_dir}\n{describe_summary(summarize_plan(plan))}")


def verify(path: Path, root: Path | None, *, rebuild: bool, as_json: bool) -> None:
    """Print all findings; exit with PlanError's code when there is one."""
    if rebuild and root is None:
        raise typer.BadParameter("--rebuild needs the dataset: add --root DATASET.")
    columns, fingerprint = (None, None) if root is None else read_plan_inputs(root)
    findings = verify_plan_files(
        path,
        columns,
        dataset_fingerprint=None if fingerprint is None else fingerprint.value,
        episode_digests=None if fingerprint is None else fingerprint.episodes,
    )
    if rebuild and columns is not None and all(each.code != "unreadable" for each in findings):
        with _warnings_unlogged():
            findings += verify_rebuild(read_plan(path, check_hash=False), columns)
    if as_json:
        value = {"plan": str(path), "ok": not findings, "findings": [asdict(f) for f in findings]}
        _print_json({**value, "dataset_checked": root is not None, "rebuilt": rebuild})
    else:
        for finding in findings:
            typer.echo(f"{finding.code}: {finding.text}")
        checks = ["files"] + ["dataset"] * (root is not None) + ["rebuilt"] * rebuild
        verdict = f"{len(findings)} wrong" if findings else "nothing wrong"
        typer.echo(f"{path}: {verdict} ({', '.join(checks)})")
    if findings:
        raise typer.Exit(PlanError.exit_code)


def show(
    path: Path,
    root: Path | None,
    *,
    num_train_steps: int | None,
    batch_size: int | None,
    picture: Path | None,
    episode: int | None,
    as_json: bool,
) -> None:
    """Print a plan's summary, draw an episode when asked. Raises PlanError, DatasetError."""
    if root is None and (picture is not None or episode is not None):
        raise typer.BadParameter("A picture needs the dataset: add --root DATASET.")
    plan = read_plan(path)
    summary = summarize_plan(plan)
    name = str(plan.meta.get("train_config_name"))
    if num_train_steps is None and name in PRESETS:
        num_train_steps = PRESETS[name].num_train_steps
    exposure = None
    if num_train_steps is not None:
        exposure = _expose(plan, num_train_steps, batch_size, None)
    if root is not None and picture is not None:
        draw(plan, root, episode, picture)
    if as_json:
        value: dict[str, Any] = summary.to_mapping()
        _print_json({**value, "exposure": None if exposure is None else asdict(exposure)})
        return
    typer.echo(f"{path}\n{describe_summary(summary)}")
    if exposure is not None:
        _print_warnings(exposure.warnings)
        typer.echo(describe_exposure(exposure))
    if picture is not None:
        typer.echo(f"picture             {picture}")


def draw(plan: Plan, root: Path, episode: int | None, picture: Path) -> None:
    """Draw one episode of a plan into ``picture``.

    Raises PlanError, DatasetError, RuntimeMissingError without matplotlib.
    """
    try:
        from appliance.report.plan_picture import draw_episode
    except ImportError as error:
        raise RuntimeMissingError(
            f"A picture needs the full installation ({error}). Install this package with the extra"
            " `run`, or leave --picture out."
        ) from error
    columns = read_plan_columns(root)
    view = view_episode(plan, columns, episode)
    state = read_info(root).features.get(STATE)
    draw_episode(
        view,
        columns.state_NxS,
        names=state.names if state is not None else None,
        meta=plan.meta,
        path=picture,
    )


def show_exposure(
    path: Path,
    *,
    num_train_steps: int,
    batch_size: int | None,
    replacement: bool | None,
    as_json: bool,
) -> None:
    """Print the exposure of a budget. Raises PlanError."""
    exposure = _expose(read_plan(path), num_train_steps, batch_size, replacement)
    if as_json:
        _print_json(asdict(exposure))
        return
    _print_warnings(exposure.warnings)
    typer.echo(describe_exposure(exposure))


def compare(a: Path, b: Path, *, as_json: bool) -> None:
    """Print what differs between two plans; exit with PlanError's code when something does."""
    difference = compare_plans(read_plan(a), read_plan(b))
    lines = difference.describe()
    if as_json:
        parts = {field.name: getattr(difference, field.name) for field in fields(difference)}
        value = {
            name: part.tolist() if isinstance(part, np.ndarray) else part
            for name, part in parts.items()
        }
        _print_json({"same": not lines, **value})
    else:
        for line in lines:
            typer.echo(line)
        typer.echo("The plans differ." if lines else "The plans have the same content.")
    if lines:
        raise typer.Exit(PlanError.exit_code)


def read_plan_inputs(root: Path) -> tuple[FrameColumns, Fingerprint | None]:
    """A dataset's plan columns and fingerprint (None without episode columns).

    Raises DatasetError.
    """
    indices = read_plan_columns(root, with_state=False)
    if indices.episode_index is None or indices.frame_index is None:
        return read_plan_columns(root), None
    columns = read_columns(root)
    return columns.to_plan_columns(), fingerprint_columns(columns)


def _resolve_sizes(
    train_config: str, action_horizon: int | None, batch_size: int | None
) -> tuple[int, int]:
    """H and the batch size: the options, else the training configuration's."""
    preset = PRESETS.get(train_config)
    if action_horizon is None and preset is not None:
        action_horizon = preset.model.action_horizon
    if batch_size is None and preset is not None:
        batch_size = preset.batch_size
    if action_horizon is None or batch_size is None:
        near = difflib.get_close_matches(train_config, PRESETS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise PlanError(
            f"--train-config {train_config}: not known here.{hint} Known are {', '.join(PRESETS)};"
            " for another one give --action-horizon and --batch-size."
        )
    return action_horizon, batch_size


def _refuse_overwriting(out_dir: Path, *, overwrite: bool) -> None:
    there = [name for name in (META_FILE, ARRAYS_FILE) if (out_dir / name).exists()]
    if there and not overwrite:
        raise PlanError(
            f"{out_dir / there[0]}: there is a plan already. Choose another --out-dir, or replace"
            " it with --overwrite."
        )


def _expose(
    plan: Plan, num_train_steps: int, batch_size: int | None, replacement: bool | None
) -> Exposure:
    batch = plan.meta.get("batch_size") if batch_size is None else batch_size
    if not isinstance(batch, int):
        raise PlanError(f"The plan's batch_size is {batch!r}. Give --batch-size.")
    if replacement is None:
        replacement = plan.meta.get("replacement") is not False
    return compute_exposure(plan.weights, plan.stage_ids, num_train_steps * batch, replacement)


@contextlib.contextmanager
def _warnings_unlogged() -> Iterator[None]:
    """The build logs its warnings for stages; here they are printed, once."""
    logger = logging.getLogger("appliance.plan.build")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _print_warnings(warnings: Iterable[str]) -> None:
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, sort_keys=True))
