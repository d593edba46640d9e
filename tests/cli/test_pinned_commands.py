"""Commands that start anew in the environment of a stage: what they say, and what they hand on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import DATASET, ROOT

WriteManifest = Callable[..., Path]


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_train_says_a_warning_once(tmp_path: Path) -> None:
    no_folder = tmp_path / "file"
    no_folder.touch()
    config = ("--config", "pi0_base_aloha_robotwin_full", "--dataset-root", DATASET)
    done = call("train", *config, "--exp-name", "e", "--out-dir", no_folder)
    assert done.returncode == 30, done.stderr
    assert done.stderr.count("starts from random weights") == 1


def test_evaluate_says_a_warning_once(write_manifest: WriteManifest, tmp_path: Path) -> None:
    tokenizer = f"tokenizer: {{path: a.model, sha256: {'a' * 64}}}"
    full = f"pi0_base_aloha_robotwin_full\n  init: null\n  {tokenizer}"
    manifest = write_manifest(("config: pi0_tiny_aloha_robotwin", f"config: {full}"))
    nobody = ("--server", "ws://127.0.0.1:1", "--connect-timeout", "0")
    done = call("evaluate", manifest, "-o", tmp_path / "results", *nobody)
    assert done.returncode == 19, done.stderr
    assert done.stderr.count("starts from random weights") == 1
