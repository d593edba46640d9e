"""What the training tests share: statistics, plan, and compiled programs kept between tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.training.small_run import make_norm_stats, make_plan


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with norm_stats/ and plan/, which also receives the frame cache."""
    folder = tmp_path_factory.mktemp("assets")
    make_norm_stats(folder / "norm_stats")
    make_plan(folder / "plan")
    return folder


@pytest.fixture(scope="session")
def compiled_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs, shared by this process and its children."""
    import jax

    folder = tmp_path_factory.mktemp("compiled")
    jax.config.update("jax_compilation_cache_dir", str(folder))  # type: ignore[no-untyped-call]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # type: ignore[no-untyped-call]
    return folder


@pytest.fixture(scope="session")
def child_environment(compiled_dir: Path) -> dict[str, str]:
    """The environment of a child process that finds the compiled programs."""
    return {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(compiled_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
