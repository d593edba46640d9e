"""Whole runs on the shipped data: what they leave, that they repeat, resume, and refuse."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import (
    ApplianceError,
    CheckpointError,
    NormStatsError,
    PlanError,
    TrainingError,
)
from appliance.policy.checkpoint import digest_leaves, load_params, save_params
from appliance.policy.parameters import abstract_params, flatten_params, nest_params
from appliance.training import loop
from appliance.training.exposure import DrawLog
from appliance.training.request import InitialWeights, TrainRequest, check_request
from tests.conftest import ROOT
from tests.training.small_run import (
    BATCH,
    CONFIG,
    make_plan,
    make_request,
    read_content,
    run,
)

CONTENT = {
    "run_summary.json",
    "curve.jsonl",
    "hash_chain.jsonl",
    "checkpoint_leaves.json",
    "sampling_plan/plan_meta.json",
    "sampling_plan/plan_arrays.npz",
}

pytestmark = pytest.mark.usefixtures("compiled_dir", "every_step_shown")


class StoppedError(Exception):
    """A run was stopped from outside."""


@pytest.fixture
def every_step_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PROGRESS_INTERVAL_S", 0.0)


@pytest.fixture(scope="module")
def planned(assets: Path) -> TrainRequest:
    return make_request(
        assets,
        sampling_plan_path=assets / "plan",
        save_interval=2,
        budget_aware_schedule=True,
        plan_aware_lr_scale=True,
    )


@pytest.fixture(scope="module")
def reference(
    planned: TrainRequest, compiled_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """One uninterrupted run of 6 steps with a plan."""
    out = tmp_path_factory.mktemp("reference")
    run(planned, out)
    return out


def checkpoint_dir(out: Path) -> Path:
    return out / "artifacts" / "checkpoints" / CONFIG.name / "test"


def stop_at(step: int) -> Callable[[int, int, str], None]:
    def on_progress(done: int, total: int, text: str) -> None:
        if done == step:
            raise StoppedError

    return on_progress


def load(path: Path) -> dict[str, Any]:
    return flatten_params(load_params(path / "params", abstract_params(CONFIG.model)))


def test_a_run_leaves_what_it_promises(reference: Path, assets: Path) -> None:
    content = read_content(reference)
    assert content.keys() == CONTENT
    curve = [json.loads(line) for line in content["curve.jsonl"].splitlines()]
    assert [row["step"] for row in curve] == list(range(6))
    assert curve[0].keys() == {"step", "loss", "grad_norm", "param_norm", "learning_rate"}
    leaves = json.loads(content["checkpoint_leaves.json"])
    assert list(leaves) == ["2", "4", "6"]
    for step, digests in leaves.items():
        assert digest_leaves(nest_params(load(checkpoint_dir(reference) / step))) == digests
    for name in ("plan_meta.json", "plan_arrays.npz"):
        original = (assets / "plan" / name).read_bytes()
        assert content[f"sampling_plan/{name}"] == original
        assert (checkpoint_dir(reference) / "sampling_plan" / name).read_bytes() == original
    assert (checkpoint_dir(reference) / "run_summary.json").read_bytes() == content[
        "run_summary.json"
    ]
    assert not (checkpoint_dir(reference) / ".resume").exists()
    (session,) = json.loads((reference / "observed" / "timing.json").read_text())["sessions"]
    assert (session["first_step"], session["steps"]) == (0, 6)


def test_the_summary_holds_expected_and_realized_exposure(reference: Path, assets: Path) -> None:
    summary = json.loads(read_content(reference)["run_summary.json"])
    meta = json.loads((assets / "plan" / "plan_meta.json").read_text())
    assert summary["plan_sha256"] == meta["plan_sha256"]
    assert summary["exposure_n"] == summary["realized_n"] == 6 * BATCH
    assert summary["exposure_ESS"] == meta["summary"]["ESS_reference"]
    repeat = 6 * BATCH / summary["exposure_ESS"]
    assert summary["plan_effective_repeat"] == repeat
    assert summary["plan_lr_scale"] == min(1.0, (50 / repeat) ** 0.5)
    assert sum(summary["realized_draws_per_stage"]) == 6 * BATCH
    assert summary["realized_unique"] == summary["realized_unique_frames"] <= 6 * BATCH
    assert summary["configuration"]["schedule_in_force"]["warmup_steps"] == 3
    assert summary["frozen_parameters"] > 0
    assert str(assets) not in json.dumps(summary)


def test_frozen_leaves_keep_their_bits_and_trained_ones_change(
    reference: Path, assets: Path, tmp_path: Path
) -> None:
    run(make_request(assets, num_train_steps=0), tmp_path)
    start, end = (load(checkpoint_dir(out) / n) for out, n in ((tmp_path, "0"), (reference, "6")))
    same = {path for path in start if start[path].tobytes() == end[path].tobytes()}
    frozen = {path for path in start if CONFIG.freeze.is_frozen(path)}
    assert frozen <= same
    # The last layer's MLP of the prefix reaches no output: it has no gradient.
    assert all("pre_ffw_norm" in path or "mlp" in path for path in same - frozen)
    content = read_content(tmp_path)
    assert content["curve.jsonl"] == content["hash_chain.jsonl"] == b""
    assert list(json.loads(content["checkpoint_leaves.json"])) == ["0"]
    assert json.loads(content["run_summary.json"])["realized_n"] == 0


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    reference: Path, planned: TrainRequest, tmp_path: Path, stop: int
) -> None:
    with pytest.raises(StoppedError):
        run(replace(planned, resume_interval_s=0.0), tmp_path, on_progress=stop_at(stop))
    run(planned, tmp_path)
    assert read_content(tmp_path) == read_content(reference)
    sessions = json.loads((tmp_path / "observed" / "timing.json").read_text())["sessions"]
    assert sessions[-1]["first_step"] == stop - 1


@pytest.mark.parametrize("damage", ["state", "leaf digest", "statistics"])
def test_a_damaged_checkpoint_is_passed_over(
    reference: Path, planned: TrainRequest, tmp_path: Path, damage: str
) -> None:
    with pytest.raises(StoppedError):
        run(planned, tmp_path, on_progress=stop_at(5))
    damaged = checkpoint_dir(tmp_path) / "4"
    position = damaged / "position.json"
    (statistics,) = (damaged / "assets").rglob("norm_stats.json")
    whole = (position.read_bytes(), statistics.read_bytes())
    if damage == "state":
        for file in (damaged / "train_state").glob("*META*"):
            file.unlink()
    elif damage == "leaf digest":
        value = json.loads(whole[0])
        value["leaves"]["state_proj/bias"] = "f" * 64
        position.write_text(json.dumps(value))
    else:
        statistics.write_text("{}")
    run(planned, tmp_path)
    assert read_content(tmp_path) == read_content(reference)
    assert (position.read_bytes(), statistics.read_bytes()) == whole
    sessions = json.loads((tmp_path / "observed" / "timing.json").read_text())["sessions"]
    assert sessions[-1]["first_step"] == 2


WITHOUT_PLAN = """
import pickle, sys
sys.modules["appliance.plan"] = None  # now any import of the room or a part of it fails
from pathlib import Path
from appliance.training.processes import Folders, Layout, train_by_layout
out, request = Path(sys.argv[1]), pickle.loads(bytes.fromhex(sys.argv[2]))
folders = Folders(content=out / "content", observed=out / "o", artifacts=out / "a")
train_by_layout(request, folders, Layout(), lambda *_: None)
assert not [name for name in sys.modules if name.startswith("appliance.plan.")]
"""


def test_the_baseline_is_the_same_without_the_plan_code(
    assets: Path, child_environment: dict[str, str], tmp_path: Path
) -> None:
    request = make_request(assets, num_train_steps=2)
    run(request, tmp_path / "with")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PLAN, tmp_path / "without", pickle.dumps(request).hex()],
        cwd=ROOT,
        env=child_environment,
        check=False,
    )
    assert done.returncode == 0
    content = read_content(tmp_path / "with")
    assert content == read_content(tmp_path / "without")
    assert content.keys() == {name for name in CONTENT if not name.startswith("sampling_plan")}
    summary = json.loads(content["run_summary.json"])
    assert summary["plan_sha256"] is None
    assert summary["exposure_expected_unique"] == 2 * BATCH == summary["realized_unique"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    assets: Path, tmp_path: Path
) -> None:
    wild = replace(CONFIG, schedule=replace(CONFIG.schedule, warmup_steps=2, peak_lr=1e17))
    request = make_request(assets, config=wild, save_interval=1)
    with pytest.raises(TrainingError, match=r"^Step \d: .*(nan|inf).*last good checkpoint is kept"):
        run(request, tmp_path)
    steps = [path.name for path in checkpoint_dir(tmp_path).iterdir() if path.name.isdecimal()]
    curve = (tmp_path / "content" / "curve.jsonl").read_text()
    assert max(map(int, steps)) == len(curve.splitlines())
    assert "NaN" not in curve
    for step in steps:
        load(checkpoint_dir(tmp_path) / step)


def test_starting_from_a_checkpoint(reference: Path, assets: Path, tmp_path: Path) -> None:
    from appliance.digest import digest_files, tree_digest

    params = checkpoint_dir(reference) / "6" / "params"
    init = InitialWeights(checkpoint=params, sha256=tree_digest(digest_files(params)))
    run(make_request(assets, num_train_steps=0, init=init), tmp_path)
    leaves = json.loads(read_content(tmp_path)["checkpoint_leaves.json"])["0"]
    assert leaves == json.loads(read_content(reference)["checkpoint_leaves.json"])["6"]
    wrong = replace(init, sha256="0" * 64)
    with pytest.raises(CheckpointError, match=r"has digest sha256-tree-v1:.*but 0000"):
        run(make_request(assets, num_train_steps=0, init=wrong), tmp_path / "b")
    missing = load(checkpoint_dir(reference) / "6")
    del missing["state_proj/bias"]
    save_params(tmp_path / "partial", nest_params(missing))
    sha256 = tree_digest(digest_files(tmp_path / "partial"))
    init = InitialWeights(checkpoint=tmp_path / "partial", sha256=sha256)
    with pytest.raises(CheckpointError, match="missing: state_proj/bias"):
        run(make_request(assets, num_train_steps=0, init=init), tmp_path / "c")


def refuse(request: TrainRequest, out: Path) -> str:
    """The text of the error that ``request`` ends with."""
    with pytest.raises(ApplianceError) as caught:
        run(request, out)
    return str(caught.value)


def test_an_earlier_run_is_neither_overwritten_nor_resumed_by_accident(
    planned: TrainRequest, tmp_path: Path
) -> None:
    request = replace(planned, num_train_steps=2, save_interval=None)
    run(request, tmp_path)
    text = refuse(replace(request, resume=False), tmp_path)
    assert "checkpoints of an earlier run are here. Use resume" in text
    text = refuse(replace(request, seed=7, freeze_mode="strong"), tmp_path)
    assert "configuration.freeze_mode: 'default', now 'strong'" in text
    assert "configuration.seed: 42, now 7" in text
    before = read_content(tmp_path)
    run(request, tmp_path)  # finished: nothing left to do
    assert read_content(tmp_path) == before
    run(
        replace(
            request,
            sampling_plan_path=None,
            plan_aware_lr_scale=False,
            num_train_steps=0,
            resume=False,
            overwrite=True,
        ),
        tmp_path,
    )
    assert not (tmp_path / "content" / "sampling_plan").exists()
    assert [path.name for path in checkpoint_dir(tmp_path).iterdir() if path.is_dir()] == ["0"]
    run(replace(request, seed=7, resume=False, overwrite=True), tmp_path)
    after = read_content(tmp_path)
    assert after["hash_chain.jsonl"] != before["hash_chain.jsonl"]
    drawn, again = (
        json.loads(c["run_summary.json"])["index_stream_sha256"] for c in (before, after)
    )
    assert drawn == again  # the plan has a seed of its own


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"overwrite": True}, "Cannot resume and overwrite at the same time."),
        ({"num_train_steps": -1}, "num_train_steps: -1 is too small"),
        ({"batch_size": 0}, "batch_size: 0 is too small"),
        ({"save_interval": 0}, "save_interval: 0 is too small"),
        ({"plan_aware_lr_scale": True}, "plan_aware_lr_scale needs a sampling plan"),
        ({"freeze_mode": "weak"}, "freeze_mode: 'weak' is not known"),
        ({"batch_size": 100_000}, "Not enough anchors for one batch: frames="),
    ],
)
def test_requests_that_cannot_work_are_refused(
    assets: Path, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    assert refuse(make_request(assets, **changes), tmp_path).startswith(text)
    assert not checkpoint_dir(tmp_path).exists()


def test_a_batch_must_divide_by_the_devices(assets: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"^Batch size 4 must be divisible by the number of devices 3\."
    ):
        check_request(make_request(assets), 3)


def test_missing_statistics_name_the_path_and_the_command(assets: Path, tmp_path: Path) -> None:
    request = make_request(assets, norm_stats_path=tmp_path / "none")
    with pytest.raises(NormStatsError, match=r"^Normalization stats not found: .*none"):
        run(request, tmp_path)


def test_a_plan_for_other_data_is_refused_in_the_order_of_the_checks(
    assets: Path, planned: TrainRequest, tmp_path: Path
) -> None:
    horizon = replace(CONFIG, model=replace(CONFIG.model, action_horizon=8))
    both = replace(planned, config=horizon, repo_id="another")
    assert refuse(both, tmp_path).startswith("Sampling plan repo_id mismatch")
    text = refuse(replace(planned, config=horizon), tmp_path)
    assert text.startswith("Sampling plan action_horizon_H mismatch")
    text = refuse(replace(planned, batch_size=1000), tmp_path)
    assert text.startswith("Not enough anchors for one batch: anchors=")
    edited = make_plan(tmp_path / "plan")
    meta = json.loads((edited / "plan_meta.json").read_text())
    (edited / "plan_meta.json").write_text(json.dumps({**meta, "repo_id": "another"}))
    text = refuse(replace(both, sampling_plan_path=edited), tmp_path)
    assert text.startswith("Plan sha256 mismatch")
    with pytest.raises(PlanError):
        run(replace(planned, sampling_plan_path=tmp_path / "nowhere"), tmp_path)


def test_overrides_take_the_place_of_the_plans_values(
    assets: Path, planned: TrainRequest, tmp_path: Path
) -> None:
    from appliance.training.inputs import read_inputs

    request = replace(planned, sampler_seed_override=5, sampler_replacement_override=False)
    inputs = read_inputs(request)
    assert (inputs.stream.seed, inputs.stream.replacement) == (5, False)
    assert inputs.exposure["exposure_expected_unique"] == 6 * BATCH
    draws = DrawLog(inputs.num_rows)
    batches = inputs.stream.batches()
    for _ in range(inputs.stream.num_items // BATCH):
        draws.add(inputs.drawn_rows[next(batches)])
    assert draws.counts_N.max() == 1
