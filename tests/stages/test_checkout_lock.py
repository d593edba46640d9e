"""A manifest that evaluates in a RoboTwin checkout: what it is refused for, and what is locked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.engine.daemon import Image
from appliance.errors import ImageError, ManifestError, SimulatorError
from appliance.manifest.model import Manifest
from appliance.simulator.checkout import digest_assets, digest_environment
from appliance.simulator.checkout_worker import RUNTIME
from appliance.stages import inventory
from appliance.stages.environment import source_digests
from appliance.stages.images import ImageEnvironment
from appliance.stages.inventory import ROBOTWIN_ASSETS, ROBOTWIN_ENVIRONMENT, Inventory
from appliance.stages.manifest import read_manifest
from appliance.stages.resolve import resolve_lock
from tests.conftest import Appliance
from tests.simulator.stand_in_checkout import (
    assemble_checkout,
    digest_checkout,
    install_runtime,
    install_stand_in,
    make_assets,
    make_environment,
)

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


def image_with(robotwin: dict[str, str | None] | None) -> ImageEnvironment:
    """An image whose inventory says what it holds of RoboTwin."""
    value = {"version": 1, "appliance": "0", "python": "3.11.2", "libc": "glibc 2.36"}
    rest = {"sources": dict.fromkeys(source_digests(ROOMS), "x"), "distributions": [], "system": {}}
    more = {} if robotwin is None else {"robotwin": robotwin}
    found = Image(name="mine:cuda", id="sha256:1", digest=None)
    return ImageEnvironment(found, Inventory.from_dict({**value, **rest, **more}))


ROOMS = ("dataset", "episodes", "plan", "norm_stats", "policy", "training", "streams")
ROOMS += ("evaluation", "simulator", "stages")
OWN = {"code": "sha256-tree-v1:" + "a" * 64, "environment": "e" * 64, "assets": "b" * 64}


def in_image(write_manifest: WriteManifest, path: str, python: str) -> Manifest:
    part = f"  simulator: robotwin-assets\n  checkout: {{path: {path}, python: {python}}}\n"
    manifest = write_manifest(
        ("  simulator: robotwin\n", part),
        ("engine: host", "engine: docker"),
        ("embodiment: stand_in", "embodiment: aloha-agilex"),
    )
    return read_manifest(manifest)


def eval_files(manifest: Manifest, image: ImageEnvironment) -> dict[str, str]:
    files = resolve_lock(manifest, image).files
    return {key: value for key, value in files.items() if key.startswith("eval.")}


def test_in_a_container_the_images_own_robotwin_is_locked_by_what_the_image_says(
    write_manifest: WriteManifest, checkout: Path
) -> None:
    inside = str(ROBOTWIN_ENVIRONMENT / "bin" / "python")
    baked = in_image(write_manifest, str(ROBOTWIN_ASSETS), inside)
    assert eval_files(baked, image_with(OWN)) == {
        "eval.checkout.tree": OWN["code"],
        "eval.checkout.assets": OWN["assets"],
        "eval.checkout.environment": OWN["environment"],
    }
    mounted = eval_files(in_image(write_manifest, str(checkout), inside), image_with(OWN))
    assert mounted["eval.checkout.tree"] == OWN["code"]
    assert mounted["eval.checkout.assets"] == digest_assets(checkout)


def test_what_a_container_could_not_play_is_refused_when_it_is_locked(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    inside = str(ROBOTWIN_ENVIRONMENT / "bin" / "python")
    assets = str(ROBOTWIN_ASSETS)
    with pytest.raises(ManifestError, match=r"not in the image.*/opt/robotwin/bin/python"):
        resolve_lock(in_image(write_manifest, assets, "/usr/bin/python3"), image_with(OWN))
    with pytest.raises(ImageError, match=r"no RoboTwin environment.*--variant cuda"):
        resolve_lock(in_image(write_manifest, assets, inside), image_with(None))
    with pytest.raises(SimulatorError, match=r"no assets.*ASSETS=download"):
        resolve_lock(in_image(write_manifest, assets, inside), image_with({**OWN, "assets": None}))
    with pytest.raises(SimulatorError, match="not a folder with RoboTwin's assets"):
        resolve_lock(in_image(write_manifest, str(tmp_path), inside), image_with(OWN))


def test_the_inventory_of_an_image_describes_its_robotwin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = make_environment(tmp_path / "robotwin")
    install_runtime(python)
    make_assets(tmp_path)
    monkeypatch.setattr(inventory, "ROBOTWIN_ENVIRONMENT", tmp_path / "robotwin")
    monkeypatch.setattr(inventory, "ROBOTWIN_ASSETS", tmp_path)
    found = inventory.describe_installation()
    expected = digest_checkout(tmp_path, python, RUNTIME)
    assert found.robotwin == {
        "code": expected.code,
        "assets": expected.assets,
        "environment": digest_environment(python),
    }
    without = {key: value for key, value in found.value.items() if key != "robotwin"}
    assert Inventory(without).digest != found.digest
    monkeypatch.setattr(inventory, "ROBOTWIN_ASSETS", tmp_path / "none")
    again = inventory.describe_installation().robotwin
    assert again is not None
    assert again["assets"] is None
