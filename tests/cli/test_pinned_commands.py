"""Commands that start anew in a stage's environment: what they say, which GPUs they get."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from appliance.cli.policies import enter_environment, runtime_with
from appliance.engine.pinned import PINNED
from tests.conftest import DATASET, ROOT
from tests.stand_in_gpus import A100, H100, list_gpus, put_on_path, write_nvidia_smi

WriteManifest = Callable[..., Path]
TINY, FULL = "pi0_tiny_aloha_robotwin", "pi0_base_aloha_robotwin_full"
NOBODY = ("--server", "ws://127.0.0.1:1", "--connect-timeout", "0")


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def train(config: str, out_dir: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    run = ("--dataset-root", DATASET, "--exp-name", "e", "--out-dir", out_dir)
    return call("train", "--config", config, *run, *flags)


def test_train_says_a_warning_once(tmp_path: Path) -> None:
    no_folder = tmp_path / "file"
    no_folder.touch()
    done = train(FULL, no_folder)
    assert done.returncode == 30, done.stderr
    assert done.stderr.count("starts from random weights") == 1


def test_evaluate_says_a_warning_once(write_manifest: WriteManifest, tmp_path: Path) -> None:
    tokenizer = f"tokenizer: {{path: a.model, sha256: {'a' * 64}}}"
    full = f"config: {FULL}\n  init: null\n  {tokenizer}"
    manifest = write_manifest((f"config: {TINY}", full))
    done = call("evaluate", manifest, "-o", tmp_path / "results", *NOBODY)
    assert done.returncode == 19, done.stderr
    assert done.stderr.count("starts from random weights") == 1


@pytest.fixture
def without_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("without_gpus")
def test_a_gpu_that_is_not_there_is_said_and_is_no_defect(tmp_path: Path) -> None:
    done = train(TINY, tmp_path, "--gpus", "1")
    assert done.returncode == 31, done.stderr
    assert "nvidia-smi" in done.stderr
    assert "takes runtime.gpus as --gpus" in done.stderr


@pytest.mark.usefixtures("without_gpus")
def test_an_evaluation_has_the_manifests_gpus_unless_told_otherwise(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    manifest = write_manifest(("engine: host", "engine: docker\n  gpus: 1"))
    evaluate = ("evaluate", manifest, "-o", tmp_path / "results")
    local = ("--checkpoint", tmp_path)
    assert call(*evaluate, *local).returncode == 31
    assert call(*evaluate, *local, "--gpus", "0").returncode == 14
    assert call(*evaluate, *NOBODY).returncode == 19, "the policy's GPUs are the server's"


def test_a_gpu_that_jax_cannot_take_is_said_and_is_no_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_nvidia_smi(tmp_path / "bin", list_gpus(H100))
    put_on_path(tmp_path / "bin", monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    done = train(TINY, tmp_path, "--gpus", "1")
    assert done.returncode == 31, done.stderr
    assert "error: jax cannot start (" in done.stderr


class ReplacedError(Exception):
    """This process would be another one now."""


@pytest.mark.parametrize(("chosen", "shown"), [(None, "GPU-0000"), ("1", "GPU-1000")])
def test_as_many_gpus_are_handed_out_as_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None, shown: str
) -> None:
    write_nvidia_smi(tmp_path, list_gpus(H100, A100))
    put_on_path(tmp_path, monkeypatch)
    monkeypatch.delenv(PINNED, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)

    def replace_process(path: str, arguments: list[str], environment: Mapping[str, str]) -> None:
        raise ReplacedError(environment["CUDA_VISIBLE_DEVICES"])

    monkeypatch.setattr(os, "execve", replace_process)
    with pytest.raises(ReplacedError, match=f"^{shown}$"):
        enter_environment(runtime_with(None, None, 1))
