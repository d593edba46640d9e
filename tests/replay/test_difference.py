"""`diff` names the first place where two results part."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.bundle.archive import pack_bundle
from appliance.errors import ApplianceError
from appliance.replay.difference import compare_results, find_parting
from appliance.replay.difference_text import difference_to_dict, format_difference
from appliance.replay.results import open_result
from tests.conftest import Appliance
from tests.replay.conftest import EPISODES, STEPS, write_episodes, write_steps

Change = Callable[[Callable[[Path], None]], Path]


def test_a_bundle_is_the_same_as_its_archive(
    original: Path, tmp_path: Path, appliance: Appliance
) -> None:
    archive = tmp_path / "bundle.tar.gz"
    pack_bundle(original / "bundle", archive)
    outcome = appliance("diff", original / "bundle", archive)
    assert outcome.code == 0, outcome.out
    assert "SAME" in outcome.out


def test_the_first_divergent_step_is_named(
    original: Path, changed_bundle: Change, appliance: Appliance
) -> None:
    losses = [2.0 - step / 100 for step in range(STEPS)]
    losses[12] += 1e-3
    other = changed_bundle(lambda content: write_steps(content / "train", losses))
    outcome = appliance("diff", original / "bundle", other, "--json")
    assert outcome.code == 43
    said = json.loads(outcome.out)
    assert said["first_divergent_stage"] == "train"
    train = next(stage for stage in said["stages"] if stage["stage"] == "train")
    parting = train["first_divergent"]
    assert (parting["kind"], parting["number"], parting["in_both"]) == ("step", 12, STEPS)
    assert parting["differing"] == STEPS - 12  # the chain carries it on
    assert parting["differences"][0]["path"] == "step 12: loss"
    text = appliance("diff", original / "bundle", other).out
    assert "DIFFERENT from stage train on: step 12: loss" in text


def test_a_run_that_stops_earlier_parts_where_it_stops(original: Path) -> None:
    steps = {str(step): {"loss": 1.0} for step in range(12)}
    shorter = {step: row for step, row in steps.items() if int(step) < 7}
    parting = find_parting("step", steps, shorter)
    assert parting is not None
    assert (parting.number, parting.differing, parting.of) == (7, 5, 7)
    assert find_parting("step", steps, dict(steps)) is None


def test_a_step_without_a_usable_number_parts_too() -> None:
    parting = find_parting("step", {"9" * 5000: {"loss": 1.0}}, {"9" * 5000: {"loss": 2.0}})
    assert parting is not None
    assert (parting.number, parting.differing, parting.of) == (-1, 1, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 7),
        ("instruction", "Touch another block."),
        ("first_physics", "sha256-physics-v1:" + "ff" * 32),
        ("first_observation", "sha256-observation-v1:" + "ff" * 32),
        ("actions_sha256", "ff" * 32),
        ("outcome", "success"),
    ],
)
def test_the_first_divergent_episode_is_named_with_what_differs(
    original: Path, changed_bundle: Change, appliance: Appliance, field: str, value: object
) -> None:
    def change(content: Path) -> None:
        write_episodes(content / "evaluate", ["timeout"] * EPISODES, **{field: value})

    said = json.loads(appliance("diff", original / "bundle", changed_bundle(change), "--json").out)
    assert said["first_divergent_stage"] == "evaluate"
    parting = said["stages"][-1]["first_divergent"]
    assert (parting["kind"], parting["number"]) == ("episode", EPISODES - 1)
    assert [row["path"] for row in parting["differences"]] == [f"episode {EPISODES - 1}: {field}"]


def test_a_changed_statistic_is_named_by_its_dimension(
    original: Path, changed_bundle: Change, appliance: Appliance
) -> None:
    def change(content: Path) -> None:
        path = content / "norm_stats" / "norm_stats.json"
        value = json.loads(path.read_bytes())
        value["norm_stats"]["actions"]["std"][3] += 1e-9
        path.write_text(json.dumps(value))

    outcome = appliance("diff", original / "bundle", changed_bundle(change))
    assert outcome.code == 43
    assert "DIFFERENT from stage norm_stats on: norm_stats.actions.std[3]" in outcome.out


def test_bytes_that_no_fact_speaks_of_differ_all_the_same(
    original: Path, changed_bundle: Change, appliance: Appliance
) -> None:
    def change(content: Path) -> None:
        (content / "evaluate" / "notes.txt").write_text("hello")

    outcome = appliance("diff", original / "bundle", changed_bundle(change))
    assert outcome.code == 43
    assert "stage evaluate on: file notes.txt" in outcome.out


def test_another_environment_alone_is_no_difference_but_is_shown(
    original: Path, tmp_path: Path, appliance: Appliance
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(original / "bundle", copy)
    lock = copy / "observed" / "lock.json"
    value = json.loads(lock.read_bytes())
    value["packages"]["numpy"] = "9.9.9"
    value["platform"]["cpu_model"] = "another processor"
    lock.write_text(json.dumps(value))
    outcome = appliance("diff", original / "bundle", copy)
    assert outcome.code == 0
    assert "packages.numpy" in outcome.out
    assert "another processor" in outcome.out


def test_something_that_is_no_result_is_refused(
    original: Path, tmp_path: Path, appliance: Appliance
) -> None:
    assert appliance("diff", original / "bundle", tmp_path).code == 20
    assert appliance("diff", original / "bundle", tmp_path / "missing").code == 20


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**20) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_stands_in_a_bundle_is_compared_or_refused(
    original: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any JSON or garbage in place of any file: a difference or an error with a text."""
    copy = tmp_path_factory.mktemp("garbage") / "copy"
    shutil.copytree(original / "bundle", copy)
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    path.write_bytes(
        data.draw(st.binary(max_size=40) | json_values.map(lambda x: json.dumps(x).encode()))
    )
    with (
        contextlib.suppress(ApplianceError),
        open_result(original / "bundle") as a,
        open_result(copy) as b,
    ):
        difference = compare_results(a, b)
        json.dumps(difference_to_dict(difference))
        format_difference(difference)
