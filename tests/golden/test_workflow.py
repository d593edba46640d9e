"""The example workflow for users' CI: its host job does what it says, command by command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.golden.workflow import (
    WORKFLOW,
    lay_out_workspace,
    missing_artifacts,
    read_steps,
    run_steps,
)


@pytest.mark.slow
def test_the_host_job_replays_shows_the_verdict_and_keeps_the_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    steps = read_steps("host")
    workspace = lay_out_workspace(tmp_path, steps)
    shown = tmp_path / "summary.md"
    run_steps(workspace, steps, GITHUB_STEP_SUMMARY=str(shown))
    assert "REPRODUCED" in shown.read_text("utf-8")
    assert missing_artifacts(workspace, steps) == []


@pytest.mark.parametrize("job", ["host", "container"])
def test_every_job_checks_out_the_appliance_at_a_commit_into_a_folder_python_does_not_import(
    job: str,
) -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    _, appliance = (
        step["with"]
        for step in read_steps(job)
        if str(step.get("uses", "")).startswith("actions/checkout@")
    )
    assert appliance["repository"] == "${{ env.APPLIANCE_REPOSITORY }}"
    assert appliance["ref"] == "${{ env.APPLIANCE_COMMIT }}"
    assert re.fullmatch(r"[0-9a-f]{40}", workflow["env"]["APPLIANCE_COMMIT"])
    assert not appliance["path"].isidentifier()
