"""The benchmarks run: small sizes here, the promised ones by `make bench`."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.benchmarks import evaluation_speed
from tests.benchmarks.__main__ import BENCHMARKS, run
from tests.benchmarks.figure import Figure
from tests.benchmarks.plan_speed import EVERYTHING, run_alone
from tests.benchmarks.serving_speed import measure_coding, measure_queries, serving
from tests.training.small_run import make_norm_stats, make_request


@pytest.mark.parametrize("parameters", [{}, EVERYTHING])
def test_a_plan_is_measured_in_a_process_of_its_own(parameters: dict[str, object]) -> None:
    figures = run_alone("plan", 20_000, parameters)
    assert 0 < figures["seconds"] < 60
    assert 0 < figures["peak_gb"] < 2


def test_statistics_and_fingerprints_are_measured() -> None:
    assert run_alone("norm_stats", 2_000)["seconds"] > 0
    assert run_alone("fingerprint", 20_000)["plain_seconds"] > 0


def test_only_the_cameras_a_policy_reads_are_rendered_at_its_size_once_a_query() -> None:
    """Counted where SAPIEN renders, in RoboTwin's own step path."""
    measured = evaluation_speed.run_alone("steps", ["cam_left_wrist"], [32, 24], 4)
    assert measured["pictures"] == {"left_camera 32x24": 2}, "at reset and after the actions"
    assert measured["actions"] == 4
    assert measured["physics_ms"] > 0


def test_queries_over_the_wire_are_measured() -> None:
    assert measure_coding(1) > 0
    with serving() as url:
        found = measure_queries(url, 2)
    assert min(found["policy_ms"], found["alone_ms"]) > 0
    assert found["together_ms"] > 0


def test_verification_is_measured_on_a_bundle_with_a_checkpoint() -> None:
    from tests.benchmarks import verify_speed

    figures = verify_speed.main(size_bytes=48 << 20, archived_bytes=8 << 20)
    memory_mb = figures[0].value
    assert 10 < memory_mb < verify_speed.MEMORY_LIMIT_MB
    assert figures[1].value > 0.5
    assert figures[2].holds


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*video decoding and encoding.*:UserWarning")
def test_training_is_measured_against_a_plain_baseline_that_computes_the_same(
    tmp_path: Path,
) -> None:
    from appliance.training.inputs import read_inputs
    from tests.benchmarks import train_speed

    make_norm_stats(tmp_path / "norm_stats")
    request = make_request(tmp_path, num_train_steps=3)
    inputs = read_inputs(request)
    figures = [
        *train_speed.measure_step(request, inputs, 1),
        *train_speed.measure_epoch(request, inputs, 1.0, 2),
        *train_speed.measure_device_wait(request, tmp_path / "run"),
        *train_speed.measure_sampler(1 << 12),
    ]
    assert len(figures) == 7
    assert all(figure.value >= 0 for figure in figures)


def test_every_benchmark_has_a_main() -> None:
    for name in BENCHMARKS:
        assert callable(importlib.import_module(f"tests.benchmarks.{name}").main)


def test_a_broken_promise_is_told_from_a_kept_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("tests.benchmarks.plan_speed")
    for value, kept in ((1.0, True), (3.0, False)):
        figure = Figure(name="work", value=value, unit="s", limit=2)
        monkeypatch.setattr(module, "main", lambda figure=figure: [figure])
        assert run(["plan_speed"]) is kept
        assert ("BROKEN" in capsys.readouterr().out) is not kept
