"""The example workflow's steps, run here as its runner would: same commands, same order.

They run in a user's repository, which holds a golden manifest with its data and expectations and
nothing else of this project, with this checkout in the folder the workflow checks it out into.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import DATASET, GOLDEN, ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "replay.yml"
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "runs", "replays", "__pycache__", ".*_cache")
TIMEOUT_S = 1500


def read_steps(job: str) -> list[dict[str, Any]]:
    """The steps of a job, in order."""
    workflow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    steps: list[dict[str, Any]] = workflow["jobs"][job]["steps"]
    return steps


def lay_out_workspace(folder: Path, steps: Sequence[Mapping[str, Any]]) -> Path:
    """What the `actions/checkout` steps would leave: a user's repository, and the appliance in it.

    The user's holds the smoke golden; the appliance is this checkout, as it is now, with its
    environment.
    """
    environment = ROOT / ".venv"
    if Path(sys.prefix).resolve() != environment.resolve():
        pytest.skip(f"the tests do not run in {environment}, which `make setup` makes")
    users, appliances = (
        step["with"] for step in steps if str(step.get("uses", "")).startswith("actions/checkout@")
    )
    assert "path" not in users
    assert "repository" not in users
    workspace = folder / "workspace"
    goldens = workspace / GOLDEN.relative_to(ROOT)
    shutil.copytree(DATASET, goldens / DATASET.relative_to(GOLDEN))
    for name in ("smoke.yaml", "smoke.expected.json"):
        shutil.copy(GOLDEN / name, goldens)
    place = workspace / appliances["path"]
    shutil.copytree(ROOT, place, symlinks=True, ignore=NOT_COPIED)
    (place / ".venv").symlink_to(environment.resolve(), target_is_directory=True)
    return workspace


def run_steps(
    workspace: Path,
    steps: Sequence[Mapping[str, Any]],
    **environment: str,
) -> None:
    """Run every `run` step by bash, as a runner does; the first that fails fails the test."""
    for step in steps:
        if "run" not in step:
            continue
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=workspace,
            env={**os.environ, "CI": "true", **environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{step['name']}: {done.stdout[-1000:]}{done.stderr[-2000:]}"


def missing_artifacts(workspace: Path, steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Paths that an `actions/upload-artifact` step would look for in vain."""
    wanted = [
        pattern
        for step in steps
        if str(step.get("uses", "")).startswith("actions/upload-artifact@")
        for pattern in step["with"]["path"].split()
    ]
    assert wanted
    return [pattern for pattern in wanted if not list(workspace.glob(pattern.rstrip("/")))]
