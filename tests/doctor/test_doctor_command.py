from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import GOLDEN, ROOT, Appliance


def test_every_line_says_what_was_found_and_json_says_the_same(
    appliance: Appliance, tmp_path: Path
) -> None:
    options = ("--run-dir", tmp_path, "--key-dir", tmp_path / "keys")
    outcome = appliance("doctor", *options)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[-1] == "Nothing that run needs is missing."
    value = json.loads(appliance("doctor", *options, "--json").out)
    assert value["ready"] is True
    assert value["for"] == "run"
    assert len(value["checks"]) == len(lines) - 1 == 18
    for line, check in zip(lines, value["checks"], strict=False):
        assert check["name"] in line


def test_what_is_required_and_missing_has_an_exit_code_of_its_own(
    appliance: Appliance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setenv("VK_DRIVER_FILES", str(tmp_path / "none.json"))
    outcome = appliance("doctor", "--for", "docker", "--run-dir", tmp_path)
    assert outcome.code == 31
    assert "lacks what docker needs: container engine." in outcome.err
    outcome = appliance("doctor", "--run-dir", tmp_path, "--json")
    assert outcome.code == 31
    value = json.loads(outcome.out)
    assert value["ready"] is False
    assert "vulkan drivers" in outcome.err
    assert appliance("doctor", "--for", "verify", "--run-dir", tmp_path).code == 0


def link_core_install(folder: Path) -> None:
    """A site folder with the packages of the core installation and nothing else."""
    lines = (ROOT / "docker" / "requirements" / "core.txt").read_text().splitlines()
    names = [line.partition("==")[0] for line in lines if "==" in line]
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
            source, target = Path(str(distribution.locate_file(top))), folder / top
            if source.exists() and not target.exists():
                target.symlink_to(source)
    (folder / "appliance").symlink_to(ROOT / "appliance")


def test_a_bare_machine_with_the_core_installation_gets_lines_and_no_traceback(
    tmp_path: Path,
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    link_core_install(site)
    environment = {"PYTHONPATH": str(site), "HOME": str(tmp_path), "PATH": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-S", "-m", "appliance", "doctor", "--run-dir", str(tmp_path)],
        cwd=tmp_path,
        env={**environment, "LANG": os.environ.get("LANG", "C.UTF-8")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 31, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "not installed: jax, flax" in done.stdout
    assert "SAPIEN is not installed" in done.stdout
    assert "the Docker SDK is not installed" in done.stdout
    assert "packages" in done.stderr
    assert len(done.stdout.splitlines()) == 18
    for command in (
        ("serve", "--checkpoint", str(tmp_path), "--config", "pi0_tiny_aloha_robotwin"),
        ("evaluate", str(GOLDEN / "smoke.yaml"), "-o", "out", "--server", "ws://127.0.0.1:1"),
        ("evaluate", str(GOLDEN / "smoke.yaml"), "-o", "out", "--checkpoint", str(tmp_path)),
    ):
        (tmp_path / "1" / "assets" / "x").mkdir(parents=True, exist_ok=True)
        (tmp_path / "1" / "assets" / "x" / "norm_stats.json").touch()
        done = subprocess.run(
            [sys.executable, "-S", "-m", "appliance", *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 31, done.stderr
        assert "needs what is not installed here" in done.stderr
    done = subprocess.run(
        [sys.executable, "-S", "-m", "appliance", "doctor", "--for", "verify", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ready"] is True
