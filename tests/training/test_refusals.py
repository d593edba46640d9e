"""What cannot work is refused before the first step, with a text that says why and an exit code."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.digest import digest_files, tree_digest
from appliance.errors import ApplianceError, CheckpointError, TrainingError
from appliance.policy.checkpoint import save_params
from appliance.policy.initialization import init_params
from appliance.policy.parameters import flatten_params, nest_params
from appliance.training.request import InitialWeights, TrainRequest, check_request
from appliance.training.run import expect_bytes
from tests.training.small_run import CONFIG, make_request, read_content, run

pytestmark = pytest.mark.usefixtures("compiled_dir")


def refuse(request: TrainRequest, out: Path, code: int) -> str:
    """The text of the error that ``request`` ends with, whose exit code must be ``code``."""
    with pytest.raises(ApplianceError) as caught:
        run(request, out)
    assert caught.value.exit_code == code
    assert not list(out.rglob("curve.jsonl")), "a step was taken"
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"overwrite": True}, 15, "Cannot resume and overwrite at the same time."),
        ({"sampler": "random"}, 15, "sampler: 'random' is not known. Use torch or counter."),
        ({"fsdp_devices": 0}, 15, "fsdp_devices: 0 is too small. Use 1 or more."),
        (
            {"fsdp_devices": 2},
            15,
            "Number of devices 1 must be divisible by fsdp_devices 2. Change train.fsdp_devices",
        ),
        ({"sampler_seed_override": 1}, 15, "sampler_seed_override and sampler_replacement_over"),
        ({"batch_size": 100_000}, 12, "Not enough anchors for one batch: frames="),
        ({"norm_stats_path": Path("/nowhere")}, 13, "Normalization stats not found: /nowhere"),
        ({"dataset_root": Path("/nowhere")}, 11, "/nowhere"),
        ({"sampling_plan_path": Path("/nowhere")}, 12, "/nowhere"),
    ],
)
def test_requests_are_refused_with_their_exit_code(
    assets: Path, tmp_path: Path, changes: dict[str, Any], code: int, text: str
) -> None:
    assert refuse(make_request(assets, **changes), tmp_path, code).startswith(text)


def test_the_batch_and_the_copies_must_divide_by_the_devices(assets: Path) -> None:
    with pytest.raises(TrainingError, match=r"^Batch size 4 must be divisible by the number of d"):
        check_request(make_request(assets), 8)
    with pytest.raises(TrainingError, match=r"^Number of devices 6 must be divisible by fsdp_dev"):
        check_request(make_request(assets, batch_size=6, fsdp_devices=4), 6)
    check_request(make_request(assets, batch_size=8, fsdp_devices=4), 8)


def drop_a_leaf(leaves: dict[str, Any]) -> None:
    del leaves["state_proj/bias"]


def cut_a_leaf(leaves: dict[str, Any]) -> None:
    leaves["state_proj/bias"] = leaves["state_proj/bias"][:-1]


def add_a_leaf(leaves: dict[str, Any]) -> None:
    leaves["another/bias"] = leaves["state_proj/bias"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (drop_a_leaf, "missing: state_proj/bias"),
        (cut_a_leaf, r"of another shape: state_proj/bias \(15,\) instead of \(16,\)"),
        (add_a_leaf, "not part of this model: another/bias"),
    ],
)
def test_a_checkpoint_of_another_model_names_the_leaves_that_do_not_fit(
    assets: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], text: str
) -> None:
    leaves = flatten_params(init_params(CONFIG.model, 1))
    change(leaves)
    save_params(tmp_path / "params", nest_params(leaves))
    sha256 = tree_digest(digest_files(tmp_path / "params"))
    init = InitialWeights(checkpoint=tmp_path / "params", sha256=sha256)
    with pytest.raises(CheckpointError, match=text) as caught:
        run(make_request(assets, init=init), tmp_path / "out")
    assert caught.value.exit_code == 14


def test_a_plan_that_cannot_be_copied_beside_the_checkpoints_is_an_error(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = shutil.copytree(assets / "plan", tmp_path / "plan")
    # It was read and checked; now, right before it is copied, a file of it goes away.
    monkeypatch.setattr(
        "appliance.training.run.check_free_space",
        lambda *_: (plan / "plan_arrays.npz").unlink(),
    )
    text = refuse(make_request(assets, sampling_plan_path=plan), tmp_path / "out", 12)
    assert "plan_arrays.npz" in text


def test_only_checkpoints_still_to_be_saved_need_disk_space(assets: Path) -> None:
    request = make_request(assets, num_train_steps=6, save_interval=2)
    last = expect_bytes(replace(request, save_interval=None), -1)  # and a resume point
    needed = {newest: expect_bytes(request, newest) for newest in (-1, 2, 3, 4, 5, 6)}
    assert needed == {
        -1: 2 * last,
        2: 1.5 * last,
        3: 1.5 * last,
        4: last,
        5: last,
        6: 0,
    }


@pytest.mark.parametrize("sampler", ["torch", "counter"])
def test_overrides_and_sampler_are_in_force_and_told(
    assets: Path, tmp_path: Path, sampler: Any
) -> None:
    planned = make_request(
        assets, num_train_steps=2, sampling_plan_path=assets / "plan", sampler=sampler
    )
    changed = replace(planned, sampler_seed_override=9, sampler_replacement_override=False)
    found = []
    for number, request in enumerate((planned, changed)):
        run(request, tmp_path / str(number))
        found.append(json.loads(read_content(tmp_path / str(number))["run_summary.json"]))
    settings = [each["configuration"] for each in found]
    assert [each["sampler"] for each in settings] == [sampler, sampler]
    assert [each["sampler_seed"] for each in settings] == [0, 9]
    assert [each["sampler_replacement"] for each in settings] == [True, False]
    assert found[0]["index_stream_sha256"] != found[1]["index_stream_sha256"]
    assert found[1]["exposure_expected_unique"] == found[1]["realized_unique"] == 8


def test_every_log_interval_the_mean_figures_are_logged(
    assets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="appliance.training.loop"):
        run(make_request(assets, config=replace(CONFIG, log_interval=3)), tmp_path)
    lines = [line for line in caplog.messages if line.startswith("step ")]
    curve = [json.loads(row) for row in read_content(tmp_path)["curve.jsonl"].splitlines()]
    for number, line in enumerate(lines, start=1):
        losses = [row["loss"] for row in curve[number * 3 - 3 : number * 3]]
        assert line.startswith(f"step {number * 3} (mean of 3): loss {sum(losses) / 3:.4g}, grad_n")
        assert "param_norm" in line
        assert "learning_rate" in line
    assert len(lines) == 2
