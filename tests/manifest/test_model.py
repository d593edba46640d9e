from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.digest import canonical_json, sha256_json
from appliance.errors import ManifestError
from appliance.manifest.load import parse_manifest
from appliance.manifest.model import Manifest
from appliance.manifest.schema import fill_defaults
from tests.manifest.samples import GOOD, HEX, SOURCE, changed, read

SEEDS = st.integers(0, 2**32 - 1)
MANIFESTS = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "name": st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9_-])?", fullmatch=True),
        "dataset": st.fixed_dictionaries(
            {
                "repo_id": st.sampled_from(["a", "owner/data-set_1.0"]),
                "root": st.sampled_from(["../data", "/data/übung", "yes", "1e3", "null", " x "]),
                "fingerprint": st.just(f"sha256-content-v1:{HEX}"),
            },
            optional={"media": st.none() | st.just(f"sha256-media-v1:{HEX}")},
        ),
        "plan": st.fixed_dictionaries(
            {},
            optional={
                "num_episodes_keep": st.none() | st.integers(1, 50),
                "plan_seed": SEEDS,
                "clip_ratio": st.floats(1, 1e9),
                "epsilon_mix": st.floats(0, 1),
                "gripper_dims": st.lists(st.integers(0, 13), min_size=1, unique=True),
                "stage_strategy": st.sampled_from(["time_quantile", "change_point_state"]),
                "replacement": st.booleans(),
            },
        ),
        "train": st.fixed_dictionaries(
            {"config": st.just("pi0_tiny_aloha_robotwin"), "steps": st.integers(0, 10**7)},
            optional={
                "seed": SEEDS,
                "budget_warmup_ratio": st.floats(0, 1),
                "init": st.none() | st.just({"checkpoint": "a/params", "sha256": HEX}),
                "tokenizer": st.none() | st.just({"path": "a.model", "sha256": HEX}),
                "sampler_replacement_override": st.none() | st.booleans(),
            },
        ),
        "eval": st.fixed_dictionaries(
            {"task": st.just("touch_block"), "episodes": st.just(2)},
            optional={
                "trials": st.none() | st.lists(SEEDS, min_size=2, max_size=2, unique=True),
                "checkpoint": st.sampled_from([-1, "latest"]),
                "video": st.booleans(),
            },
        ),
    },
    optional={
        "runtime": st.fixed_dictionaries({}, optional={"cpu_threads": st.integers(1, 64)}),
        "expect": st.none()
        | st.just({"plan_sha256": HEX, "success_rate": {"value": 1, "margin": 0.8}}),
    },
)


@given(MANIFESTS)
def test_every_valid_manifest_survives_the_ways_it_is_written_and_read(value):
    """Laws: from_dict(as_dict(x)) == x, and parse_manifest(canonical_json(as_dict(x))) == x."""
    manifest = read(canonical_json(value))
    assert Manifest.from_dict(manifest.as_dict()) == manifest
    assert read(canonical_json(manifest.as_dict())) == manifest
    assert manifest.as_dict() == fill_defaults(value)
    assert manifest.sha256 == sha256_json(manifest.as_dict())
    assert hash(manifest) == hash(Manifest.from_dict(manifest.as_dict()))


def test_where_a_manifest_was_read_does_not_make_it_another():
    other = parse_manifest(GOOD.encode(), source_path=Path("elsewhere/b.yaml"))
    assert other == read(GOOD)
    assert other.source_path != SOURCE
    assert other.sha256 == read(GOOD).sha256


def test_a_manifest_is_frozen_all_the_way_down():
    manifest = read(changed(("episodes: 20", "episodes: 2\n  trials: [3, 4]")))
    assert manifest.plan is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        manifest.plan["stride"] = 3  # type: ignore[index]
    assert manifest.eval.trials == (3, 4)
    assert isinstance(manifest.plan["gripper_dims"], tuple)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"extra": 1}, r"the manifest: not a normalized manifest \(missing: \[\], unknown: \['ex"),
        ({"runtime": {}}, r"runtime: not a normalized manifest \(missing: \['cpu_max_isa', "),
    ],
)
def test_a_mapping_that_is_not_normalized_is_refused(change, text):
    with pytest.raises(ManifestError, match=text):
        Manifest.from_dict({**read(GOOD).as_dict(), **change})
