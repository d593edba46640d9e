"""`appliance plan ...`: every flag, what is printed for people and machines, and every refusal."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.flags import flag_name
from appliance.cli.plan_flags import HELP, respell_words
from appliance.errors import PlanError
from appliance.plan.files import read_plan
from appliance.plan.match import check_plan_matches
from appliance.plan.metadata import params_from_metadata
from appliance.plan.params import PlanParams
from tests.cli.prepare_run import prepare
from tests.conftest import DATASET, GOLDEN, Appliance, Outcome
from tests.dataset.writer import make_episodes, write_dataset

STACK = GOLDEN / "data" / "stack_blocks_two-stand_in-10"
SIZES = ("--train-config", "pi0_tiny_aloha_robotwin")

# One value other than the default for every parameter of Plan-STaR section 1.
OTHER_VALUES: dict[str, Any] = {
    "num_episodes_keep": 7,
    "episode_selection_seed": 3,
    "valid_start_tail_keep": 2,
    "stride": 3,
    "plan_seed": 4,
    "min_anchors": 5,
    "stage_strategy": "change_point_state",
    "num_stages": 6,
    "change_point_delta": 2,
    "change_point_min_gap": 8,
    "stage_balance": "inv_freq",
    "inv_freq_power": 0.5,
    "clip_ratio": 4.0,
    "epsilon_mix": 0.02,
    "gripper_event_enabled": True,
    "gripper_dims": (13, 6),
    "gripper_smooth_window": 3,
    "gripper_delta1": 2,
    "gripper_delta2": 6,
    "gripper_quantile_q": 0.9,
    "gripper_min_gap": 9,
    "gripper_event_mode": "soft_exp",
    "gripper_sigma": 7.0,
    "gripper_window_w": 5,
    "gripper_gamma": 1.5,
    "gripper_reduce": "per_dim",
    "sampler_seed": 8,
    "replacement": False,
}


def build(appliance: Appliance, out_dir: Path, *flags: str | Path, root: Path = STACK) -> Outcome:
    return appliance(
        "plan",
        "build",
        "--root",
        root,
        "--repo-id",
        root.name,
        "--out-dir",
        out_dir,
        *SIZES,
        *flags,
    )


@pytest.fixture
def plan(appliance: Appliance, tmp_path: Path) -> Path:
    """A plan of the stack_blocks_two dataset with gripper events."""
    folder = tmp_path / "plan"
    flags = ("--gripper-event-enabled", "--gripper-reduce", "per_dim")
    assert build(appliance, folder, *flags).code == 0
    return folder


def params_of(folder: Path) -> PlanParams:
    return params_from_metadata(read_plan(folder).meta)


def spell(values: dict[str, Any]) -> list[str]:
    words = []
    for name, value in values.items():
        flag = flag_name(name)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [flag, text]
    return words


def test_every_parameter_of_the_table_is_a_flag(appliance: Appliance, tmp_path: Path) -> None:
    names = [field.name for field in fields(PlanParams)]
    assert set(OTHER_VALUES) == set(HELP) == set(names)
    said = appliance("plan", "build", "--help").out
    for name in names:
        assert flag_name(name) in said
    assert build(appliance, tmp_path / "p", *spell(OTHER_VALUES)).code == 0
    expected = {**asdict(PlanParams()), **OTHER_VALUES}
    assert asdict(params_of(tmp_path / "p")) == expected


def test_the_window_of_hard_is_a_flag_too(appliance: Appliance, tmp_path: Path) -> None:
    flags = ("--gripper-event-mode", "hard", "--gripper-window-w", "9", "--gripper-event-enabled")
    assert build(appliance, tmp_path / "p", *flags, "--gripper-reduce", "per_dim").code == 0
    assert params_of(tmp_path / "p").gripper_window_w == 9


def test_without_flags_the_defaults_are_those_of_the_parameters(
    appliance: Appliance, tmp_path: Path
) -> None:
    assert build(appliance, tmp_path / "p").code == 0
    found = asdict(params_of(tmp_path / "p"))
    resolved = {"num_episodes_keep": 10, "min_anchors": 32}
    assert found == {**asdict(PlanParams()), **resolved}


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--stride-S", "4"], "stride", 4),
        (["--num-stages-K", "6"], "num_stages", 6),
        (["--replacement", "true"], "replacement", True),
        (["--replacement", "false"], "replacement", False),
        (["--replacement=False"], "replacement", False),
        (["--no-replacement"], "replacement", False),
        (["--replacement"], "replacement", True),
        (["--gripper-event-enabled", "false"], "gripper_event_enabled", False),
    ],
)
def test_historic_spellings_are_accepted(
    appliance: Appliance, tmp_path: Path, flags: list[str], name: str, value: Any
) -> None:
    assert build(appliance, tmp_path / "p", *flags).code == 0
    assert getattr(params_of(tmp_path / "p"), name) == value


def test_only_words_after_on_off_flags_are_respelled() -> None:
    same = ["--repo-id", "true", "--stage-strategy", "time_quantile", "false", "--stride=2"]
    assert respell_words(same) == same
    assert respell_words(["--replacement", "--repo-id", "false"])[0] == "--replacement"


def test_horizon_and_batch_size_come_from_the_training_configuration_or_the_flags(
    appliance: Appliance, tmp_path: Path
) -> None:
    flags = ("--action-horizon", "20", "--batch-size", "8")
    assert build(appliance, tmp_path / "a").code == 0
    assert build(appliance, tmp_path / "b", *flags).code == 0
    found = [read_plan(tmp_path / name).meta for name in ("a", "b")]
    assert [(m["action_horizon_H"], m["batch_size"]) for m in found] == [(16, 32), (20, 8)]
    own = ("plan", "build", "--root", STACK, "--repo-id", "x", "--train-config", "pi0_somebody")
    outcome = appliance(*own, "--out-dir", tmp_path / "c")
    assert (outcome.code, "--action-horizon" in outcome.err) == (12, True)
    assert appliance(*own, "--out-dir", tmp_path / "c", *flags).code == 0
    assert read_plan(tmp_path / "c").meta["train_config_name"] == "pi0_somebody"
    assert build(appliance, tmp_path / "d", "--action-horizon", "0").code == 12


def test_a_plan_is_not_overwritten_unless_asked(appliance: Appliance, plan: Path) -> None:
    before = (plan / "plan_meta.json").read_bytes()
    outcome = build(appliance, plan)
    assert outcome.code == 12
    assert "there is a plan already" in outcome.err
    assert "--overwrite" in outcome.err
    assert (plan / "plan_meta.json").read_bytes() == before
    assert build(appliance, plan, "--overwrite").code == 0
    assert (plan / "plan_meta.json").read_bytes() != before


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--num-episodes-keep", "11"], "Requested num_episodes_keep=11 but dataset has 10 epi"),
        (["--num-episodes-keep", "0"], "plan.num_episodes_keep: 0 is not positive"),
        (["--stride", "0"], "plan.stride: 0 is not allowed"),
        (["--min-anchors", "99999"], "Not enough anchors for one batch: anchors=2161, required>="),
        (["--gripper-dims", "6;13"], "--gripper-dims 6;13: not a list of indices"),
        (["--gripper-dims", "6,14", "--gripper-event-enabled"], "plan.gripper_dims: 14 is outside"),
    ],
)
def test_a_plan_that_cannot_be_built_is_refused_in_the_words_of_the_specification(
    appliance: Appliance, tmp_path: Path, flags: list[str], text: str
) -> None:
    outcome = build(appliance, tmp_path / "p", *flags)
    assert outcome.code == 12
    assert f"error: {text}" in outcome.err
    assert not (tmp_path / "p").exists()


def test_a_value_that_is_no_choice_or_no_number_is_a_usage_error(
    appliance: Appliance, tmp_path: Path
) -> None:
    for flags in (["--stage-strategy", "time"], ["--stride", "two"], ["--no-such-flag"]):
        assert build(appliance, tmp_path / "p", *flags).code == 2


def test_warnings_of_the_build_are_shown_once_and_given_to_machines(
    appliance: Appliance, tmp_path: Path
) -> None:
    flags = ("--gripper-event-enabled", "--no-replacement", "--num-episodes-keep", "3")
    outcome = build(appliance, tmp_path / "a", *flags)
    silent = "warning: Kept episodes without a gripper event"
    uneven = "warning: Without replacement every anchor comes once an epoch"
    assert outcome.err.count(silent) == 1
    assert "gripper_reduce: per_dim" in outcome.err
    assert outcome.err.count(uneven) == 1
    value = json.loads(build(appliance, tmp_path / "b", *flags, "--json").out)
    assert [text.split()[0] for text in value["warnings"]] == ["Kept", "Without"]


def test_a_dataset_without_episode_columns_is_one_episode(
    appliance: Appliance, tmp_path: Path
) -> None:
    root = write_dataset(tmp_path / "d", make_episodes([90]), drop=("episode_index", "frame_index"))
    outcome = build(appliance, tmp_path / "p", "--num-episodes-keep", "2", root=root)
    assert outcome.code == 12
    assert (
        "Dataset missing episode_index/frame_index; episode subset sampling is una" in outcome.err
    )
    assert build(appliance, tmp_path / "p", root=root).code == 0
    meta = read_plan(tmp_path / "p").meta
    assert (meta["has_episode_fields"], meta["dataset_fingerprint"]) == (False, None)
    assert appliance("plan", "verify", tmp_path / "p", "--root", root, "--rebuild").code == 0


def test_the_command_and_the_stage_build_the_same_plan(
    appliance: Appliance, tmp_path: Path
) -> None:
    manifest, run_dir = GOLDEN / "smoke.yaml", tmp_path / "run"
    folder = prepare(manifest, run_dir)
    for stage in ("dataset", "plan", "norm_stats"):
        assert appliance("stage", stage, "--run-dir", run_dir).code == 0
    staged = folder.path / "stages"
    (meta_file,) = staged.rglob("plan_meta.json")
    meta = read_plan(meta_file).meta
    params = params_from_metadata(meta)
    flags = spell(asdict(params))
    flags += ["--batch-size", str(meta["batch_size"])]
    assert build(appliance, tmp_path / "p", *flags, root=DATASET).code == 0
    assert read_plan(tmp_path / "p").plan_sha256 == meta["plan_sha256"]
    outcome = appliance(
        "norm-stats", "compute", "--root", DATASET, "--repo-id", DATASET.name, *SIZES,
        "--plan", tmp_path / "p", "--assets-dir", tmp_path / "assets",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    (made,) = (tmp_path / "assets").rglob("norm_stats.json")
    (from_stage,) = staged.rglob("norm_stats.json")
    assert made.read_bytes() == from_stage.read_bytes()


def test_a_good_plan_verifies_alone_against_its_data_and_rebuilt(
    appliance: Appliance, plan: Path
) -> None:
    for arguments in ([], ["--root", STACK], ["--root", STACK, "--rebuild"]):
        outcome = appliance("plan", "verify", plan, *arguments)
        assert (outcome.code, outcome.err) == (0, "")
        assert "nothing wrong" in outcome.out
    value = json.loads(appliance("plan", "verify", plan, "--root", STACK, "--json").out)
    assert value["ok"] is True
    assert value["findings"] == []
    outcome = appliance("plan", "verify", plan, "--rebuild")
    assert outcome.code == 2
    assert "--root" in outcome.err


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "plan_meta.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_all_findings_are_printed_and_the_exit_code_is_the_plans(
    appliance: Appliance, plan: Path
) -> None:
    edit(plan, sampler_seed=7, dataset_len=99_999)
    outcome = appliance("plan", "verify", plan, "--root", STACK, "--rebuild")
    assert outcome.code == PlanError.exit_code == 12
    for code in (
        "sha256: Plan sha256 mismatch: expected",
        "dataset_len: Sampling plan dataset_len",
    ):
        assert f"\n{code}" in f"\n{outcome.out}"
    value = json.loads(appliance("plan", "verify", plan, "--json").out)
    assert value["ok"] is False
    assert [finding["code"] for finding in value["findings"]] == ["sha256"]
    (plan / "plan_arrays.npz").unlink()
    outcome = appliance("plan", "verify", plan, "--root", STACK, "--rebuild")
    assert (outcome.code, "plan_arrays.npz is missing" in outcome.out) == (12, True)


def test_changed_data_is_found_and_its_episodes_named(appliance: Appliance, tmp_path: Path) -> None:
    episodes = make_episodes([60, 60, 60])
    root = write_dataset(tmp_path / "d", episodes)
    assert build(appliance, tmp_path / "p", root=root).code == 0
    episodes[1].action[3, 3] += 1
    shutil.rmtree(root)
    write_dataset(root, episodes)
    outcome = appliance("plan", "verify", tmp_path / "p", "--root", root)
    assert outcome.code == 12
    assert "Sampling plan dataset_fingerprint mismatch" in outcome.out
    assert "Changed episodes: 1." in outcome.out


def test_the_command_in_a_fingerprint_mismatch_rebuilds_the_plan(
    appliance: Appliance, tmp_path: Path
) -> None:
    """Section 5: the message offers the rebuild command; it gives the same plan of new data."""
    assert build(appliance, tmp_path / "p", *spell(OTHER_VALUES)).code == 0
    plan = read_plan(tmp_path / "p")
    with pytest.raises(PlanError) as caught:
        check_plan_matches(
            plan,
            repo_id=plan.meta["repo_id"],
            dataset_len=plan.meta["dataset_len"],
            action_horizon=16,
            batch_size=32,
            dataset_fingerprint="sha256-content-v1:00",
        )
    command = str(caught.value).split("`")[1]
    words = shlex.split(
        command.replace("DATASET", str(STACK)).replace("NEW_PLAN", str(tmp_path / "q"))
    )
    assert words[0] == "appliance"
    assert appliance(*words[1:]).code == 0
    assert read_plan(tmp_path / "q").plan_sha256 == plan.plan_sha256


def test_show_prints_stages_events_weights_and_coverage(appliance: Appliance, plan: Path) -> None:
    outcome = appliance("plan", "show", plan, "--num-train-steps", "100")
    assert outcome.code == 0
    assert "gripper events      40 (per episode: 4 to 4, mean 4.00)" in outcome.out
    assert "exposure of 3200 draws with replacement" in outcome.out
    assert "expected coverage" in outcome.out
    counts = read_plan(plan).meta["summary"]["stage_counts"]
    for stage, count in enumerate(counts):
        assert f"{stage:>5}  {count:>9}" in outcome.out
    assert "####" in outcome.out


def test_show_gives_machines_the_same_figures(appliance: Appliance, plan: Path) -> None:
    value = json.loads(appliance("plan", "show", plan, "--json").out)
    meta = read_plan(plan).meta
    assert [stage["anchors"] for stage in value["stages"]] == meta["summary"]["stage_counts"]
    assert sum(stage["mass"] for stage in value["stages"]) == pytest.approx(1)
    assert sum(each["anchors"] for each in value["weights"]) == value["num_anchors"]
    assert value["ess"] == meta["summary"]["ESS_reference"]
    assert value["events"]["count"] == 40
    assert value["exposure"]["n"] == 1200 * 32  # the training configuration's own budget
    assert value["settings"]["plan_sha256"] == meta["plan_sha256"]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_show_draws_a_picture_of_an_episode(
    appliance: Appliance, plan: Path, tmp_path: Path, suffix: str
) -> None:
    picture = tmp_path / f"episode{suffix}"
    arguments = ("plan", "show", plan, "--root", STACK, "--picture", picture, "--episode", "3")
    assert appliance(*arguments).code == 0
    assert picture.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


def test_pictures_that_cannot_be_drawn_are_refused(
    appliance: Appliance, plan: Path, tmp_path: Path
) -> None:
    show = ("plan", "show", plan)
    assert appliance(*show, "--picture", tmp_path / "a.png").code == 2
    outcome = appliance(*show, "--root", STACK, "--picture", tmp_path / "a.gif")
    assert (outcome.code, ".png or .svg" in outcome.err) == (12, True)
    outcome = appliance(*show, "--root", STACK, "--picture", tmp_path / "a.png", "--episode", "70")
    assert (outcome.code, "does not keep episode 70" in outcome.err) == (12, True)
    outcome = appliance(*show, "--root", DATASET, "--picture", tmp_path / "a.png")
    assert (outcome.code, "dataset_len mismatch" in outcome.err) == (12, True)


def test_without_the_full_installation_a_picture_says_what_is_missing(
    appliance: Appliance, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "appliance.report.plan_picture", None)
    picture = tmp_path / "a.png"
    outcome = appliance("plan", "show", plan, "--root", STACK, "--picture", picture)
    assert (outcome.code, "full installation" in outcome.err) == (31, True)
    assert appliance("plan", "show", plan).code == 0


def test_exposure_uses_the_values_in_force(appliance: Appliance, plan: Path) -> None:
    def expose(*flags: str) -> dict[str, Any]:
        outcome = appliance("plan", "exposure", plan, "--num-train-steps", "10", *flags, "--json")
        assert outcome.code == 0
        return dict(json.loads(outcome.out))

    assert expose()["n"] == 320
    assert expose("--batch-size", "4")["n"] == 40
    assert expose()["replacement"] is True
    without = expose("--replacement", "false")
    assert without["expected_unique"] == 320
    assert "hardly matter" in without["warnings"][0]
    text = appliance("plan", "exposure", plan, "--num-train-steps", "10", "--no-replacement")
    assert "warning: Without replacement" in text.err
    assert "expected unique     320.0" in text.out


def test_compare_says_what_differs_and_exits_with_12_when_something_does(
    appliance: Appliance, plan: Path, tmp_path: Path
) -> None:
    outcome = appliance("plan", "compare", plan, plan)
    assert (outcome.code, outcome.out) == (0, "The plans have the same content.\n")
    assert build(appliance, tmp_path / "q", "--num-episodes-keep", "5", "--stride", "1").code == 0
    outcome = appliance("plan", "compare", plan, tmp_path / "q")
    assert outcome.code == 12
    assert "anchor_strategy.stride_S is 2 in one and 1 in the other." in outcome.out
    assert "5 episodes only the first keeps" in outcome.out
    value = json.loads(appliance("plan", "compare", plan, tmp_path / "q", "--json").out)
    assert value["same"] is False
    assert len(value["episodes_only_a"]) == 5
    assert value["settings"]["anchor_strategy.stride_S"] == [2, 1]


def test_a_missing_plan_says_how_to_make_one(appliance: Appliance, tmp_path: Path) -> None:
    for arguments in (["show"], ["exposure", "--num-train-steps", "1"]):
        outcome = appliance("plan", arguments[0], tmp_path / "none", *arguments[1:])
        assert outcome.code == 12
        assert "appliance plan build" in outcome.err
