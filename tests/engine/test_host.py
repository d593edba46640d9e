"""The environment of a stage is the manifest's, whatever the caller has set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.engine.host import (
    DETERMINISTIC_GPU_FLAGS,
    pinned_environment,
    run_stage_process,
    stage_environment,
)
from appliance.errors import StageFailedError
from appliance.stages.engines import container_environment
from appliance.stages.manifest import read_manifest
from tests.conftest import GOLDEN

PINNED = {"cpu_threads": 2, "cpu_max_isa": "AVX2", "gpus": 0}


def test_variables_that_decide_bits_are_pinned_over_the_callers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("XLA_FLAGS", "OMP_NUM_THREADS", "PJRT_NPROC", "NPY_DISABLE_CPU_FEATURES"):
        monkeypatch.setenv(name, "7")
    environment = stage_environment(pinned_environment(**PINNED, scratch_dir=tmp_path))
    assert environment["XLA_FLAGS"] == "--xla_cpu_max_isa=AVX2"
    assert environment["PJRT_NPROC"] == "2"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert "NPY_DISABLE_CPU_FEATURES" not in environment
    assert environment["PATH"] == os.environ["PATH"]


def test_on_gpus_xla_measures_no_kernels_and_may_use_only_deterministic_ones(
    tmp_path: Path,
) -> None:
    flags = pinned_environment(**{**PINNED, "gpus": 1}, scratch_dir=tmp_path)["XLA_FLAGS"].split()
    assert flags == ["--xla_cpu_max_isa=AVX2", *DETERMINISTIC_GPU_FLAGS]
    # jaxlib ends a process that is given a flag it does not know.
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=environment, check=True)


@pytest.mark.parametrize("choice", [None, "", "1"])
def test_on_gpus_the_callers_choice_of_them_stands_and_no_choice_hides_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, choice: str | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if choice is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", choice)
    pinned = pinned_environment(**{**PINNED, "gpus": 1}, scratch_dir=tmp_path)
    assert stage_environment(pinned).get("CUDA_VISIBLE_DEVICES") == choice
    runtime = read_manifest(GOLDEN / "smoke.yaml").runtime
    for gpus in (0, 1):  # the container engine hands out the devices themselves
        given = container_environment(replace(runtime, gpus=gpus), tmp_path)
        assert "CUDA_VISIBLE_DEVICES" not in given


def test_the_pinned_thread_count_reaches_jax_and_torch(tmp_path: Path) -> None:
    script = (
        "import json, torch; from appliance.training.platform import describe_platform;"
        "print(json.dumps(describe_platform()))"
    )
    pinned = pinned_environment(cpu_threads=1, cpu_max_isa="SSE4_2", gpus=0, scratch_dir=tmp_path)
    said = subprocess.run(
        [sys.executable, "-c", script],
        env=stage_environment(pinned),
        capture_output=True,
        text=True,
        check=True,
    )
    platform = json.loads(said.stdout)
    assert platform["threads"] == {"jax": 1, "torch": 1}
    assert platform["cpu_max_isa"] == "SSE4_2"
    assert platform["backend"] == "cpu"


def test_a_stage_that_is_killed_is_told_from_one_that_failed(tmp_path: Path) -> None:
    assert run_stage_process("plan", tmp_path, {}) == 30
    killer = tmp_path / "sitecustomize.py"
    killer.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with pytest.raises(StageFailedError, match=r"SIGKILL.*memory.*again to continue"):
        run_stage_process("plan", tmp_path, {"PYTHONPATH": str(tmp_path)})
