"""The commands that read: what they print for people and for machines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance import __version__, errors
from appliance.bundle.layout import BundleContentError
from tests.conftest import DATASET, GOLDEN, ROOT, Appliance

WriteManifest = Callable[..., Path]


def test_the_version_and_the_help_are_printed(appliance: Appliance) -> None:
    assert appliance("--version").out.strip() == f"appliance {__version__}"
    said = appliance("--help").out
    for command in ("validate", "lock", "explain", "run", "stage", "verify", "dataset", "keys"):
        assert re.search(rf"^\s+{command}\b", said, re.MULTILINE)


@pytest.mark.parametrize("path", sorted((ROOT / "manifests").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_manifest_is_valid(appliance: Appliance, path: Path) -> None:
    outcome = appliance("validate", path)
    assert outcome.code == 0, outcome.err
    assert "valid" in outcome.out


def test_validate_gives_machines_the_normalized_manifest(appliance: Appliance) -> None:
    value = json.loads(appliance("validate", GOLDEN / "smoke.yaml", "--json").out)
    assert value["valid"]
    assert value["manifest"]["eval"]["sampling_steps"] == 10


def test_validate_gives_machines_every_finding(
    appliance: Appliance, write_manifest: WriteManifest
) -> None:
    path = write_manifest(("  stride: 1", "  stride: 0"), ("  steps: 20", "  steps: -1"))
    outcome = appliance("validate", path, "--json")
    value = json.loads(outcome.out)
    assert outcome.code == 10
    assert {finding["path"] for finding in value["findings"]} == {"plan.stride", "train.steps"}


def test_the_lock_holds_the_dataset_and_the_versions_in_force(
    appliance: Appliance, tmp_path: Path
) -> None:
    target = tmp_path / "lock.json"
    assert appliance("lock", GOLDEN / "smoke.yaml", "--output", target).code == 0
    lock = json.loads(target.read_bytes())
    printed = json.loads(appliance("lock", GOLDEN / "smoke.yaml").out)
    assert lock == printed
    assert lock["dataset"]["fingerprint"] in (GOLDEN / "smoke.yaml").read_text()
    assert lock["packages"]["jax"] == "0.10.2"


def test_the_fingerprint_of_the_shipped_dataset_is_the_pinned_one(appliance: Appliance) -> None:
    value = json.loads(appliance("dataset", "fingerprint", DATASET, "--json").out)
    text = (GOLDEN / "touch_block.yaml").read_text()
    assert value["fingerprint"] in text
    assert value["media"] in text


def test_explain_names_every_stage_and_runs_none(appliance: Appliance, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    outcome = appliance("explain", GOLDEN / "smoke.yaml", "--run-dir", folder, "--no-cache")
    assert outcome.code == 0
    for stage in ("dataset", "plan", "norm_stats", "train", "evaluate"):
        assert f"{stage} " in outcome.out
    assert not folder.exists()


def test_a_key_is_made_shown_trusted_and_untrusted(appliance: Appliance, tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    key = json.loads(appliance("keys", "show", "--key-dir", theirs, "--json").out)
    pem = tmp_path / "their.pem"
    pem.write_text(key["public_key"])
    assert "PRIVATE" not in key["public_key"]
    assert appliance("keys", "trust", pem, "--key-dir", mine).code == 0
    shown = json.loads(appliance("keys", "show", "--key-dir", mine, "--json").out)
    assert shown["trusted"] == [key["key_id"]]
    assert appliance("keys", "untrust", key["key_id"], "--key-dir", mine).code == 0
    shown = json.loads(appliance("keys", "show", "--key-dir", mine, "--json").out)
    assert shown["trusted"] == []


def test_help_and_verify_import_nothing_heavy() -> None:
    heavy = {"jax", "flax", "torch", "lerobot", "sapien", "robotwin", "docker", "matplotlib"}
    script = (
        "import sys; import appliance.cli.main, appliance.cli.bundles, appliance.cli.runs;"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "[]"


def test_declaring_the_commands_imports_no_library_but_typer() -> None:
    libraries = {"cryptography", "jsonschema", "yaml", "numpy", "pyarrow", "scipy", "jinja2"}
    script = (
        f"import sys; import appliance.cli.main;print(sorted({libraries!r} & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "[]"


def leaf_errors(base: type[errors.ApplianceError]) -> Iterator[type[errors.ApplianceError]]:
    for each in base.__subclasses__():
        yield each
        yield from leaf_errors(each)


def test_the_readme_documents_every_exit_code() -> None:
    section = (ROOT / "README.md").read_text("utf-8").split("## Exit codes")[1].split("\n## ")[0]
    documented = {
        int(code)
        for row in re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE)
        for code in row.split(",")
    }
    used = {each.exit_code for each in leaf_errors(errors.ApplianceError)}
    assert BundleContentError.exit_code in used
    assert used <= documented
