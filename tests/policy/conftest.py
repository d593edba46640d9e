"""Small models and the numbers of openpi's own implementation, shared by the policy tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.norm_stats.files import NormStats, Stats
from appliance.policy.config import GEMMA_VARIANTS, Pi0Config, SiglipConfig

Reference = dict[str, NDArray[np.generic]]

REFERENCE_FILE = Path(__file__).parent / "data" / "pi0_tiny_reference.npz"


@pytest.fixture(scope="session")
def reference() -> Reference:
    """Parameters, inputs and outputs of openpi for ``reference_config`` (see data/README.md)."""
    with np.load(REFERENCE_FILE) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="session")
def reference_config() -> Pi0Config:
    """openpi's dummy experts with a small vision tower, in float32."""
    return Pi0Config(
        paligemma=GEMMA_VARIANTS["dummy"],
        action_expert=GEMMA_VARIANTS["dummy"],
        vision=SiglipConfig(width=32, depth=1, mlp_dim=128, num_heads=2, patch_size=14),
        vocabulary=512,
        dtype="float32",
    )


@pytest.fixture
def norm_stats() -> NormStats:
    """Statistics of 14 dims, grippers constant."""
    generator = np.random.default_rng(0)

    def stats() -> Stats:
        mean = generator.normal(size=14)
        std = generator.uniform(0.1, 0.5, size=14)
        std[[6, 13]] = 0.0
        return Stats(mean=mean, std=std, q01=mean - std, q99=mean + std)

    return NormStats(state=stats(), actions=stats())
