"""A manifest that evaluates in a RoboTwin checkout: what it is refused for, and what is locked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Appliance
from tests.simulator.stand_in_checkout import assemble_checkout, install_stand_in, make_environment

WriteManifest = Callable[..., Path]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "RoboTwin"
    assemble_checkout(root)
    install_stand_in(root)
    make_environment(tmp_path / "venv")
    return root


def name_checkout(root: Path, more: str = "") -> tuple[str, str]:
    python = root.parent / "venv" / "bin" / "python"
    return (
        "  simulator: robotwin\n",
        f"  simulator: robotwin-checkout\n  checkout: {{path: {root}, python: {python}{more}}}\n",
    )


def lock_of(appliance: Appliance, manifest: Path) -> dict[str, str]:
    outcome = appliance("lock", manifest)
    assert outcome.code == 0, outcome.err
    files = json.loads(outcome.out)["files"]
    return {key: value for key, value in files.items() if key.startswith("eval.")}


def test_the_lock_records_code_assets_and_environment_of_the_checkout_by_content(
    appliance: Appliance, write_manifest: WriteManifest, checkout: Path
) -> None:
    manifest = write_manifest(name_checkout(checkout))
    files = lock_of(appliance, manifest)
    assert set(files) == {f"eval.checkout.{name}" for name in ("tree", "assets", "environment")}
    assert files["eval.checkout.tree"].startswith("sha256-tree-v1:")
    pinned = write_manifest(name_checkout(checkout, f", tree: '{files['eval.checkout.tree']}'"))
    assert lock_of(appliance, pinned) == files
    path = checkout / "envs" / "stack_blocks_two.py"
    path.write_text(path.read_text("utf-8") + "# changed\n", "utf-8")
    outcome = appliance("lock", pinned)
    assert outcome.code == 16
    assert "eval.checkout.tree" in outcome.err
    assert re.search(r"pinned: \S+\s+found: ", outcome.err)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            "simulator: robotwin\n",
            "simulator: robotwin-checkout\n",
            "eval.checkout: is missing, and eval.simulator is robotwin-checkout",
        ),
        (
            "simulator: robotwin\n",
            "simulator: robotwin\n  checkout: {path: a, python: b}\n",
            "eval.checkout: is not used: eval.simulator is robotwin",
        ),
        (
            "simulator: robotwin\n",
            "simulator: robotwin-checkout\n  checkout: {path: a, python: b, tree: x}\n",
            "must be `sha256-tree-v1:` and 64 hexadecimal digits",
        ),
    ],
)
def test_a_checkout_is_named_for_its_simulator_and_for_no_other(
    appliance: Appliance, write_manifest: WriteManifest, old: str, new: str, text: str
) -> None:
    outcome = appliance("validate", write_manifest((old, new)))
    assert outcome.code == 10
    assert text in re.sub(r"\s+", " ", outcome.err)


def test_a_checkout_has_names_of_its_own(
    appliance: Appliance, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    manifest = write_manifest(
        (
            "simulator: robotwin\n",
            "simulator: robotwin-checkout\n  checkout: {path: a, python: b}\n",
        ),
        ("embodiment: stand_in", "embodiment: aloha-agilex"),
        ("planner: ik_toppra", "planner: curobo"),
        ("shader: minimal", "shader: rt"),
        ("task: touch_block\n", "task: open_laptop\n"),
        ("task_config: demo_clean", "task_config: demo_randomized"),
    )
    outcome = appliance("validate", manifest)
    assert outcome.code == 0, outcome.err
    outcome = appliance("lock", manifest)
    assert outcome.code == 16
    assert "not a RoboTwin checkout" in outcome.err
