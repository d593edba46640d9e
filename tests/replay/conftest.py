"""A bundle whose data, plan and statistics are real, and whose training and evaluation are short.

Training and evaluation themselves are replayed in ``tests/golden``; here their records are written
by the code that writes them in a run, with figures of our own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.assemble import BundleSources, collect_files, write_bundle
from appliance.bundle.keys import load_or_create_key
from appliance.digest import canonical_json
from appliance.evaluation.records import Episode
from appliance.files import write_json
from appliance.manifest.model import Manifest
from appliance.replay.recompute import (
    recompute_configuration,
    recompute_dataset,
    recompute_norm_stats,
    recompute_plan,
)
from appliance.replay.reference import describe_surroundings
from appliance.stages.bundle import identity_of
from appliance.stages.manifest import read_manifest
from appliance.stages.pins import dataset_root
from appliance.training.journal import CHAIN_START, Journal, StepRecord
from tests.conftest import GOLDEN

STEPS = 20
EPISODES = 4


def write_steps(content: Path, losses: list[float]) -> None:
    """The curve and chain of a run with these losses."""
    content.mkdir(parents=True, exist_ok=True)
    for name in ("curve.jsonl", "hash_chain.jsonl"):
        (content / name).unlink(missing_ok=True)
    journal = Journal(content)
    journal.rewind(0, CHAIN_START)
    for step, loss in enumerate(losses):
        journal.append(
            StepRecord(step=step, loss=loss, grad_norm=2.0, param_norm=3.0, learning_rate=0.5)
        )
    journal.close()
    summary = content / "run_summary.json"
    value = json.loads(summary.read_bytes()) if summary.is_file() else {}
    write_json(summary, {**value, "hash_chain": journal.digest})


def write_episodes(content: Path, outcomes: list[str], **changed: Any) -> None:
    """Records of an evaluation with these outcomes; ``changed`` replaces fields of the last one."""
    content.mkdir(parents=True, exist_ok=True)
    rows = [
        Episode(
            episode=number,
            seed=100_000 + number,
            outcome=outcome,
            instruction="Touch the block.",
            steps=60,
            queries=4,
            first_observation="sha256-observation-v1:" + f"{number:064x}",
            first_physics="sha256-physics-v1:" + "ab" * 32,
            actions_sha256=f"{number:064x}",
        ).to_dict()
        for number, outcome in enumerate(outcomes)
    ]
    rows[-1] |= changed
    (content / "episodes.jsonl").write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))
    seeds = [row["seed"] for row in rows]
    write_json(content / "trials.json", {"mode": "pinned", "seeds": seeds, "skipped": []})
    successes = outcomes.count("success")
    write_json(content / "metrics.json", {"episodes": len(rows), "successes": successes})


def fill_content(manifest: Manifest, folder: Path) -> None:
    """All content of a bundle below ``folder``."""
    work, root = folder.with_name(folder.name + "-work"), dataset_root(manifest)
    recompute_dataset(manifest, root, work)
    recompute_plan(manifest, root, work)
    recompute_norm_stats(manifest, root, work)
    for name in ("dataset", "plan", "norm_stats"):
        shutil.copytree(work / name / "content", folder / name)
    train = folder / "train"
    train.mkdir()
    write_json(train / "run_summary.json", recompute_configuration(manifest, root, work))
    write_json(train / "checkpoint_leaves.json", {str(STEPS): {"w": "cd" * 32}})
    write_steps(train, [2.0 - step / 100 for step in range(STEPS)])
    write_episodes(folder / "evaluate", ["timeout"] * EPISODES)
    write_json(folder / "manifest.json", identity_of(manifest))


def sign_bundle(
    base: Path,
    manifest: Manifest,
    content: Path,
    name: str = "bundle",
    observed: Mapping[str, Path] | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """The bundle of ``content`` and ``observed``, signed with the key in ``base/keys``.

    ``files`` are the digests of what the manifest names, as in a lock.
    """
    here = describe_surroundings(manifest)
    lock = {
        "packages": {name: value for name, value in here.packages.items() if value},
        "platform": dict(here.platform),
        "sources": dict(here.sources),
        "files": dict(files or {}),
    }
    write_json(base / "lock.json", lock)
    files = {path.partition("/")[2]: source for path, source in collect_files(content, "c").items()}
    sources = BundleSources(
        name=manifest.name,
        content=files,
        observed={"lock.json": base / "lock.json", **(observed or {})},
        manifest=manifest.as_dict(),
        lock=lock,
        levels=("R0", "R1"),
    )
    write_bundle(base / name, sources, load_or_create_key(base / "keys"))
    return base / name


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``bundle``, its ``content`` before signing, and ``keys``."""
    base = tmp_path_factory.mktemp("original")
    manifest = read_manifest(GOLDEN / "smoke.yaml")
    fill_content(manifest, base / "content")
    sign_bundle(base, manifest, base / "content")
    return base


@pytest.fixture
def changed_bundle(original: Path, tmp_path: Path) -> Callable[[Callable[[Path], None]], Path]:
    """Make another bundle of the same content, changed by a function before it is signed."""

    def make(change: Callable[[Path], None]) -> Path:
        content = tmp_path / "content"
        shutil.copytree(original / "content", content)
        change(content)
        return sign_bundle(tmp_path, read_manifest(GOLDEN / "smoke.yaml"), content, "changed")

    return make
