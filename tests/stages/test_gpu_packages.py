"""On GPUs the packages of CUDA are part of what decides a result; elsewhere they are not."""

from __future__ import annotations

import re
from dataclasses import replace

from appliance.manifest.model import Manifest
from appliance.stages.inventory import JAX_ON_GPUS, packages_that_matter
from appliance.stages.manifest import read_manifest
from appliance.stages.registry import stages_for
from appliance.stages.spot_check import SpotCheck
from appliance.stages.spot_check import stage as spot_check_stage
from appliance.training.platform import GPU_PACKAGES
from tests.conftest import ROOT


def read_golden(gpus: int) -> Manifest:
    manifest = read_manifest(ROOT / "manifests" / "golden" / "smoke.yaml")
    return replace(manifest, runtime=replace(manifest.runtime, gpus=gpus))


def packages_on(gpus: int) -> dict[str, set[str]]:
    return {stage.name: set(stage.packages) for stage in stages_for(read_golden(gpus))}


def test_only_stages_that_compute_with_jax_on_gpus_depend_on_cuda() -> None:
    without, on_gpus = packages_on(0), packages_on(2)
    added = {name: on_gpus[name] - without[name] for name in without}
    assert added == {
        "dataset": set(),
        "plan": set(),
        "norm_stats": set(),
        "train": set(GPU_PACKAGES),
        "evaluate": set(GPU_PACKAGES),
    }
    assert not any(packages & set(GPU_PACKAGES) for packages in without.values())


def test_a_spot_check_depends_on_what_its_training_does() -> None:
    check = SpotCheck(first_step=0, num_steps=1, checkpoints=None)
    for gpus in (0, 1):
        stage = spot_check_stage(read_golden(gpus), check)
        assert set(stage.packages) == packages_on(gpus)["train"]


def test_the_named_packages_are_those_of_the_locked_cuda_environment() -> None:
    lock = (ROOT / "docker" / "requirements" / "cuda.txt").read_text("utf-8")
    locked = re.findall(r"^((?:jax-cuda|nvidia-)[a-z0-9-]+)==", lock, re.MULTILINE)
    assert sorted(locked) == sorted(GPU_PACKAGES)


def test_bytes_of_cuda_matter_only_beside_a_jax_that_can_use_them() -> None:
    brought_by_torch = packages_that_matter({"torch", "nvidia-cudnn-cu12"})
    assert not brought_by_torch & set(GPU_PACKAGES)
    assert packages_that_matter({JAX_ON_GPUS}) == brought_by_torch | set(GPU_PACKAGES)
