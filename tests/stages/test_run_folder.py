"""What code in a container leaves in the run folder leads nowhere, and decides nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.engine.container import StageContainer
from appliance.stages import engines
from appliance.stages.engines import ContainerEngine
from appliance.stages.images import ImageEnvironment
from appliance.stages.manifest import read_manifest
from appliance.stages.registry import find_stage
from appliance.stages.run_folder import RunFolder
from appliance.stages.spot_check import SpotCheck
from appliance.stages.spot_check import stage as spot_check_stage
from tests.conftest import DATASET, GOLDEN


def container_engine(tmp_path: Path) -> ContainerEngine:
    return ContainerEngine(
        manifest=read_manifest(GOLDEN / "smoke.yaml"),
        opened=cast(ImageEnvironment, SimpleNamespace(found=SimpleNamespace(id="sha256:abc"))),
        run_dir=tmp_path / "run",
        secrets=(),
    )


def test_a_container_is_shown_nothing_because_the_run_folder_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[Path, ...]] = []

    def note(stage: str, request: StageContainer, **_: Any) -> int:
        del stage
        shown.append(request.exposure.inputs)
        return 0

    machine = SimpleNamespace(memory_bytes=8 << 30, num_cpus=2)
    monkeypatch.setattr(engines, "probe_engine", lambda: machine)
    monkeypatch.setattr(engines, "run_stage_container", note)
    folder = RunFolder(tmp_path / "run")
    engine = container_engine(tmp_path)
    plan = find_stage(engine.manifest, "plan")
    for planted in ("/root/.ssh", 7):
        folder.write_state({"spot_check": {"checkpoints": planted}})
        engine.run_stage(plan, folder, -1)
    check = SpotCheck(first_step=1, num_steps=1, checkpoints=tmp_path / "kept")
    engine.run_stage(spot_check_stage(engine.manifest, check), folder, -1)
    assert shown == [(DATASET,), (DATASET,), (DATASET, tmp_path / "kept")]
