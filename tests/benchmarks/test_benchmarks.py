"""The benchmarks run: small sizes here, the promised ones by `make bench`."""

from __future__ import annotations

import importlib

import pytest

from tests.benchmarks.__main__ import BENCHMARKS, run
from tests.benchmarks.figure import Figure
from tests.benchmarks.plan_speed import EVERYTHING, run_alone


@pytest.mark.parametrize("parameters", [{}, EVERYTHING])
def test_a_plan_is_measured_in_a_process_of_its_own(parameters: dict[str, object]) -> None:
    figures = run_alone("plan", 20_000, parameters)
    assert 0 < figures["seconds"] < 10
    assert 0 < figures["peak_gb"] < 2


def test_statistics_and_fingerprints_are_measured() -> None:
    assert run_alone("norm_stats", 2_000)["seconds"] > 0
    assert run_alone("fingerprint", 20_000)["plain_seconds"] > 0


def test_verification_is_measured_on_a_bundle_with_a_checkpoint() -> None:
    from tests.benchmarks import verify_speed

    figures = verify_speed.main(size_bytes=48 << 20, archived_bytes=8 << 20)
    memory_mb = figures[0].value
    assert 10 < memory_mb < verify_speed.MEMORY_LIMIT_MB
    assert figures[1].value > 0.5
    assert figures[2].holds


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
