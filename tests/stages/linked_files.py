"""Files a manifest names by ``../`` and over links, as they lie in a hub's cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from appliance.digest import sha256_file
from appliance.norm_stats.files import NORM_STATS_FILE, NormStats, Stats, write_norm_stats
from tests.conftest import DATASET
from tests.policy.small_tokenizer import train_tokenizer

NUM_DIMS = 14
STEPS = "config: pi0_tiny_aloha_robotwin\n  steps: 20"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedFiles:
    """``replacements`` turn the smoke manifest in ``name`` into one that names the files.

    ``tokenizer`` and ``norm_stats`` are where their bytes lie.
    """

    name: str
    replacements: tuple[tuple[str, str], ...]
    tokenizer: Path
    norm_stats: Path


def link_files(folder: Path, *, steps: int) -> LinkedFiles:
    """Make a manifests folder in ``folder``; links to dataset, tokenizer, norm stats beside it."""
    for name in ("manifests", "data", "hub/blobs", "hub/snapshots/1/stats", "written"):
        (folder / name).mkdir(parents=True)
    blobs, snapshot = folder / "hub" / "blobs", folder / "hub" / "snapshots" / "1"
    tokenizer = train_tokenizer(folder / "written" / "tokenizer.model").rename(blobs / "a1")
    ones = np.ones(NUM_DIMS, np.float64)
    stats = Stats(mean=0 * ones, std=ones, q01=-ones, q99=ones)
    write_norm_stats(NormStats(state=stats, actions=stats), folder / "written", provenance={})
    norm_stats = (folder / "written" / NORM_STATS_FILE).rename(blobs / "b2")
    (snapshot / "tokenizer.model").symlink_to("../../blobs/a1")
    (snapshot / "stats" / NORM_STATS_FILE).symlink_to("../../../blobs/b2")
    (folder / "weights").symlink_to(snapshot)
    (folder / "data" / "linked").symlink_to(DATASET)
    train = (
        f"config: pi0_tiny_aloha_robotwin\n  steps: {steps}\n"
        f"  tokenizer: {{path: ../weights/tokenizer.model, sha256: {sha256_file(tokenizer)}}}"
    )
    reuse = "mode: reuse\n  path: ../weights/stats"
    return LinkedFiles(
        name="manifests/linked.yaml",
        replacements=(
            (f"root: {DATASET}", "root: ../data/linked"),
            ("mode: recompute\n  subset: episodes_valid", reuse),
            (STEPS, train),
        ),
        tokenizer=tokenizer,
        norm_stats=norm_stats,
    )
