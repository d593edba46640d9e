from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from appliance.errors import EvaluationError, StorageError
from appliance.evaluation.compare import Comparison, compare_evaluations, format_p
from appliance.evaluation.episodes_needed import episodes_for_fisher
from appliance.evaluation.statistics import equivalence_two_proportions
from appliance.simulator.faults import SimulatorLostError
from tests.evaluation.fakes import NoisePolicy, World, run_evaluation


def evaluate_failing(folder: Path, fails: list[int], **changes: Any) -> Path:
    changes = {"episodes": 20} | changes
    return run_evaluation(folder, policy=NoisePolicy(fails=fails), **changes)


def compare(first: Path, second: Path) -> Comparison:
    return compare_evaluations(first, second, first_label="trained", second_label="untrained")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return evaluate_failing(tmp_path / "trained", [100004])


def test_a_clear_difference_is_said_in_one_sentence(tmp_path: Path, trained: Path) -> None:
    untrained = evaluate_failing(tmp_path / "untrained", list(range(100000, 100018)))
    comparison = compare(trained, untrained)
    assert not comparison.intervals_overlap
    assert comparison.difference == pytest.approx(0.85)
    expected = scipy.stats.binomtest(17, 17, 0.5).pvalue
    assert comparison.mcnemar_p == pytest.approx(expected)
    assert comparison.sentence == (
        "On the same 20 trials trained succeeded in 19 of 20 (95.0 %, 95 % Wilson interval 76.4 to"
        " 99.1 %) and untrained succeeded in 2 of 20 (10.0 %, 95 % Wilson interval 2.8 to 30.1 %),"
        " a difference of +85.0 percentage points (95 % interval +55.2 to +94.8; exact McNemar test"
        " p = 1.5e-05; 17 trials solved only by trained, 0 only by untrained). Measured with the"
        " embodiment stand_in, the planner ik_toppra and the shader minimal: not a RoboTwin score."
    )
    assert json.loads(json.dumps(comparison.to_dict()))["sentence"] == comparison.sentence


def test_pairs_are_matched_by_seed_not_by_place(tmp_path: Path) -> None:
    first = evaluate_failing(tmp_path / "a", [5], trials=(5, 6, 7), episodes=3)
    second = evaluate_failing(tmp_path / "b", [5], trials=(7, 6, 5), episodes=3)
    comparison = compare(first, second)
    assert (comparison.pairs.both, comparison.pairs.neither) == (2, 1)
    assert comparison.mcnemar_p == 1.0
    assert comparison.intervals_overlap


def test_other_seeds_are_compared_unpaired_and_the_sentence_says_so(
    tmp_path: Path, trained: Path
) -> None:
    fails = list(range(100000, 100012))
    world = World(skips={100003: "unstable"})
    policy = NoisePolicy(fails=fails)
    other = run_evaluation(tmp_path / "other", world=world, policy=policy, episodes=20)
    comparison = compare(trained, other)
    assert not comparison.is_paired
    assert comparison.pairs is None
    assert comparison.mcnemar_p is None
    expected = scipy.stats.fisher_exact([[19, 1], [9, 11]]).pvalue
    assert comparison.fisher_p == pytest.approx(expected)
    assert comparison.sentence.startswith("On different trials trained succeeded in 19 of 20")
    assert "unpaired, because the sets of trials differ" in comparison.sentence
    assert "19 trials are in both sets" in comparison.sentence
    assert json.loads(json.dumps(comparison.to_dict()))["paired"] is False


def test_equivalence_within_a_declared_margin_is_tested_and_said(tmp_path: Path) -> None:
    episodes = {"episodes": 60}
    first = evaluate_failing(tmp_path / "a", [100001], **episodes)
    second = evaluate_failing(tmp_path / "b", [100002], **episodes)
    wide, narrow = (
        compare_evaluations(first, second, first_label="A", second_label="B", margin=margin)
        for margin in (0.2, 0.02)
    )
    assert wide.equivalence is not None
    assert wide.equivalence.is_equivalent
    assert "Within a margin of 20 percentage points the two rates are equivalent" in wide.sentence
    assert wide.episodes_needed is None
    assert narrow.equivalence is not None
    assert not narrow.equivalence.is_equivalent
    assert narrow.episodes_needed is not None
    assert narrow.episodes_needed > 60
    assert f"about {narrow.episodes_needed} common trials would show it" in narrow.sentence
    assert narrow.to_dict()["equivalence"]["is_equivalent"] is False


def test_equivalence_on_different_trials_is_unpaired(tmp_path: Path) -> None:
    first = evaluate_failing(tmp_path / "a", [100001], episodes=40)
    second = evaluate_failing(tmp_path / "b", [200002], episodes=40, seed=1)
    found = compare_evaluations(first, second, first_label="A", second_label="B", margin=0.1)
    assert found.equivalence == equivalence_two_proportions(39, 40, 39, 40, margin=0.1)
    assert not any("both sets" in note for note in found.notes)


def test_an_undecided_difference_says_how_many_trials_would_tell(tmp_path: Path) -> None:
    first = evaluate_failing(tmp_path / "a", [100001, 100002, 100003])
    second = evaluate_failing(tmp_path / "b", [100001])
    found = compare(first, second)
    assert found.mcnemar_p == 0.5
    assert found.episodes_needed is not None
    assert found.episodes_needed > 20


def test_common_trials_that_began_otherwise_are_pointed_out(tmp_path: Path, trained: Path) -> None:
    other = evaluate_failing(tmp_path / "other", [])
    path = other / "episodes.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[4]["first_physics"] = "sha256-physics-v1:" + "ff" * 32
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        "1 common trials began from another scene (first: seed 100004)"
        in compare(trained, other).sentence
    )


def test_a_trial_that_was_not_played_is_no_other_start_but_is_said(
    tmp_path: Path, trained: Path
) -> None:
    def lose(name: str, seed: int) -> None:
        if (name, seed) == ("step", 100004):
            raise SimulatorLostError("gone")

    world = World(before_call=lose)
    lost = run_evaluation(tmp_path / "lost", world=world, policy=NoisePolicy(), episodes=20)
    sentence = compare(trained, lost).sentence
    assert "began from another" not in sentence
    assert "Not played, and counted as failures: 0 trials of trained, 1 of untrained." in sentence
    assert "Not played" not in compare(trained, trained).sentence


def test_records_that_do_not_hold_how_a_trial_began_are_not_accused(
    tmp_path: Path, trained: Path
) -> None:
    older = evaluate_failing(tmp_path / "older", [])
    rows = (older / "episodes.jsonl").read_text().replace("first_physics", "first_state_sha256")
    (older / "episodes.jsonl").write_text(rows)
    assert "began from another" not in compare(trained, older).sentence


@pytest.mark.parametrize("alpha", [5.0, -1.0, 0.0, 0.5, float("nan")])
def test_a_level_that_no_test_has_is_refused_also_without_a_margin(
    trained: Path, alpha: float
) -> None:
    with pytest.raises(EvaluationError, match=r"alpha: .* is not between 0 and 0\.5"):
        compare_evaluations(trained, trained, first_label="A", second_label="B", alpha=alpha)


def test_an_undecided_difference_on_other_trials_says_how_many_would_tell(tmp_path: Path) -> None:
    first = evaluate_failing(tmp_path / "a", [])
    second = evaluate_failing(tmp_path / "b", [200001, 200002, 200003], seed=1)
    found = compare(first, second)
    assert found.fisher_p is not None
    assert found.fisher_p > 0.05
    assert found.episodes_needed == episodes_for_fisher(1.0, 0.85, 0.05)
    assert found.episodes_needed is not None
    assert found.episodes_needed > 20


def test_the_pictures_a_policy_reads_are_its_own_affair(tmp_path: Path) -> None:
    simulator = {"embodiment": "stand_in", "image_size": [96, 72], "cameras": ["cam_high"]}
    larger = {**simulator, "image_size": [224, 224], "cameras": ["cam_high", "cam_left_wrist"]}
    first = evaluate_failing(tmp_path / "a", [], simulator=simulator)
    second = evaluate_failing(tmp_path / "b", [], simulator=larger)
    assert compare(first, second).is_paired


def test_simulators_of_other_code_are_compared_with_a_note(tmp_path: Path) -> None:
    simulator = {"name": "robotwin-checkout", "embodiment": "aloha-agilex", "checkout": "sha256:1"}
    first = evaluate_failing(tmp_path / "a", [], simulator=simulator)
    second = evaluate_failing(tmp_path / "b", [], simulator={**simulator, "checkout": "sha256:2"})
    assert "The simulators differ in checkout." in compare(first, second).sentence


def test_noise_that_was_not_controlled_is_said(tmp_path: Path, trained: Path) -> None:
    other = evaluate_failing(tmp_path / "other", [])
    metrics = json.loads((other / "metrics.json").read_text())
    metrics["policy"] = {"server_metadata": {}, "noise": "the server's own, not controlled"}
    (other / "metrics.json").write_text(json.dumps(metrics))
    assert "drew its own noise" in compare(trained, other).sentence


def test_another_task_or_simulator_is_refused(tmp_path: Path, trained: Path) -> None:
    other = evaluate_failing(tmp_path / "other", [], simulator={"embodiment": "aloha-agilex"})
    with pytest.raises(
        EvaluationError, match=r"differ in simulator: embodiment 'stand_in' and 'aloha-agilex'"
    ):
        compare(trained, other)


def test_records_that_contradict_each_other_are_refused(tmp_path: Path, trained: Path) -> None:
    rows = (trained / "episodes.jsonl").read_text()
    (trained / "episodes.jsonl").write_text(rows.replace("timeout", "success"))
    with pytest.raises(EvaluationError, match=r"counts 19 successes of 20, but .* holds 20 of 20"):
        compare(trained, trained)


def test_a_missing_or_foreign_folder_is_a_clear_error(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(StorageError):
        compare(trained, tmp_path / "nowhere")
    (trained / "episodes.jsonl").write_text("[]\n")
    with pytest.raises(EvaluationError, match="not the records of an evaluation"):
        compare(trained, trained)


def test_comparing_needs_the_core_install_alone() -> None:
    code = (
        "import sys, appliance.evaluation.compare, appliance.evaluation.checkpoints;"
        "sys.exit(bool({'av', 'jax', 'torch', 'sapien', 'robotwin'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("p", "text"), [(1.0, "1.000"), (0.0123, "0.012"), (0.001, "0.001"), (0.00099, "9.9e-04")]
)
def test_p_values_are_printed_as_papers_do(p: float, text: str) -> None:
    assert format_p(p) == text
