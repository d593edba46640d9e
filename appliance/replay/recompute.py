"""R1: data, plan, norm stats and configuration computed again, in this process.

The stages' own code is run, on files of their own. Everything here works with the core
installation; without the video library the media figure is left out.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from appliance.files import storage_errors
from appliance.manifest.model import Manifest
from appliance.plan.files import read_plan
from appliance.replay.facts import read_stage_facts
from appliance.stages import dataset, norm_stats, plan
from appliance.stages.definition import StageContext
from appliance.stages.pins import places_for_stages
from appliance.stages.train import build_request
from appliance.training.configuration import resolve_configuration


def recompute_dataset(manifest: Manifest, root: Path, work: Path) -> dict[str, Any]:
    """The facts of the dataset at ``root``. Raises DatasetError when it is not the pinned one."""
    place = work / "dataset"
    _start_anew(place)
    context = _context(manifest, root, place, {})
    if importlib.util.find_spec("av") is None:
        from appliance.dataset.columns import read_info

        dataset.write_facts(context, read_info(root), None)
    else:
        dataset.STAGE.run(context)
    return read_stage_facts("dataset", context.content)


def recompute_plan(manifest: Manifest, root: Path, work: Path) -> dict[str, Any]:
    """The facts of the plan, built again. Raises PlanError."""
    return _run_stage("plan", plan.STAGE.run, manifest, root, work)


def recompute_norm_stats(manifest: Manifest, root: Path, work: Path) -> dict[str, Any]:
    """The facts of the statistics, computed again. Raises NormStatsError."""
    run = norm_stats.stage(with_plan=manifest.plan is not None).run
    return _run_stage("norm_stats", run, manifest, root, work)


def recompute_configuration(manifest: Manifest, root: Path, work: Path) -> dict[str, Any]:
    """The training configuration in force, in the form of the facts of ``train``."""
    planned = work / "plan" / "content" if manifest.plan is not None else None
    request = build_request(
        manifest,
        files=places_for_stages(manifest),
        dataset_root=root,
        norm_stats_path=work / "norm_stats" / "content",
        plan_path=planned,
        cache_dir=None,
    )
    built = None if planned is None else read_plan(planned)
    return {"configuration": resolve_configuration(request, built)}


def _run_stage(
    name: str, run: Callable[[StageContext], None], manifest: Manifest, root: Path, work: Path
) -> dict[str, Any]:
    place = work / name
    _start_anew(place)
    inputs = {each: work / each for each in ("dataset", "plan") if (work / each).is_dir()}
    context = _context(manifest, root, place, inputs)
    run(context)
    return read_stage_facts(name, context.content)


def _context(
    manifest: Manifest, root: Path, place: Path, inputs: Mapping[str, Path]
) -> StageContext:
    return StageContext(
        manifest=manifest,
        files=places_for_stages(manifest),
        dataset_root=root,
        inputs={name: folder for name, folder in inputs.items() if folder != place},
        folder=place,
        scratch_dir=place,
        progress=_say_nothing,
    )


def _say_nothing(done: int, total: int, text: str = "") -> None:
    """These stages take no time worth showing."""


def _start_anew(place: Path) -> None:
    with storage_errors(place, "clearing an earlier replay"):
        if place.is_dir():
            shutil.rmtree(place)
        place.mkdir(parents=True)
