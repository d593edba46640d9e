"""`diff` and R1 need the core installation only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import DATASET, ROOT

BLOCKED = (
    *("jax", "jaxlib", "flax", "optax", "orbax", "torch", "torchvision", "lerobot", "datasets"),
    *("av", "sapien", "robotwin", "mplib", "toppra", "docker", "matplotlib", "jinja2", "cv2"),
    *("websockets", "msgpack", "sentencepiece", "tokenizers", "h5py", "imageio", "trimesh"),
)
PROGRAM = f"""
import sys
import importlib.util

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {BLOCKED!r} else find_spec(name)
from appliance.cli.main import main
main()
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_two_bundles_are_compared(original: Path) -> None:
    done = run("diff", original / "bundle", original / "bundle")
    assert done.returncode == 0, done.stderr
    assert "SAME" in done.stdout


def test_r1_is_computed_again(original: Path, tmp_path: Path) -> None:
    done = run(
        *("replay", original / "bundle", "--level", "R1", "--dataset-root", DATASET),
        *("--work-dir", tmp_path / "work", "--key-dir", original / "keys"),
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "R1  shown" in done.stdout


def test_without_the_training_libraries_auto_stays_with_r1_and_says_why(
    original: Path, tmp_path: Path
) -> None:
    done = run(
        *("replay", original / "bundle", "--dataset-root", DATASET),
        *("--work-dir", tmp_path / "work", "--key-dir", original / "keys"),
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "R2  not tested" in done.stdout
    assert "jax is not installed" in done.stdout


def test_what_needs_them_is_refused_when_it_is_asked_for(original: Path, tmp_path: Path) -> None:
    for asked in (("--level", "R2"), ("--spot-check", "0:1")):
        done = run(
            *("replay", original / "bundle", "--dataset-root", DATASET, *asked),
            *("--work-dir", tmp_path / "work", "--key-dir", original / "keys"),
        )
        assert done.returncode == 31, done.stderr
        assert "jax is not installed" in done.stderr
