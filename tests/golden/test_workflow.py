"""The example workflow for users' CI: its host job does what it says, command by command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.workflow import copy_checkout, missing_artifacts, read_steps, run_steps


@pytest.mark.slow
def test_the_host_job_replays_shows_the_verdict_and_keeps_the_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    checkout = copy_checkout(tmp_path)
    shown = tmp_path / "summary.md"
    steps = read_steps("host")
    run_steps(checkout, steps, GITHUB_STEP_SUMMARY=str(shown))
    assert "REPRODUCED" in shown.read_text("utf-8")
    assert missing_artifacts(checkout, steps) == []
