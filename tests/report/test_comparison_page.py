"""Several bundles on one page: what differs is named, success is compared trial by trial."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.findings import Claims, Verdict, VerifyReport, error
from appliance.evaluation.statistics import wilson_interval
from appliance.report.comparison_page import render_comparison, write_comparison
from tests.report.browser import Browser
from tests.report.markup import Markup, parse
from tests.report.sample_run import MANIFEST, OUTCOMES, make_view, write_value
from tests.report.test_page import HOSTILE, check_only_own_elements
from tests.report.test_report_browser import find_violations

Files = dict[str, Path]


@pytest.fixture
def other(copy_files: Callable[[], Files]) -> Files:
    """The sample run with other outcomes on the same trials."""
    files = copy_files()
    play(files, ["timeout", "success", "success", *OUTCOMES[3:]])
    return files


def play(files: Files, outcomes: list[str], first_seed: int = 100000) -> None:
    """Replace the outcomes of an evaluation."""
    rows: list[dict[str, Any]] = [
        {"episode": number, "seed": first_seed + number, "outcome": outcome, "steps": 20}
        for number, outcome in enumerate(outcomes)
    ]
    episodes = files["content/evaluate/episodes.jsonl"]
    write_value(episodes.parent, episodes.name, rows)
    metrics = files["content/evaluate/metrics.json"]
    value = json.loads(metrics.read_text("utf-8"))
    successes = outcomes.count("success")
    interval = wilson_interval(successes, len(outcomes))
    value |= {"episodes": len(outcomes), "successes": successes}
    value["success_rate"] = successes / len(outcomes)
    value["wilson_interval"] = {"low": interval.low, "high": interval.high}
    metrics.write_text(json.dumps(value), "utf-8")


def render(*views: Any) -> Markup:
    return parse(render_comparison(views))


def test_the_same_bundles_make_the_same_bytes(files: Files, other: Files) -> None:
    views = (make_view(files), make_view(other))
    assert render_comparison(views) == render_comparison(views)


def test_success_is_compared_trial_by_trial(files: Files, other: Files) -> None:
    markup = render(make_view(files), make_view(other))
    words = markup.words
    assert "On the same 6 trials A succeeded in 4 of 6" in words
    assert "1 trials solved only by A, 1 only by B" in words
    assert "Trials with different outcomes (2)" in words
    assert "Trials with equal outcomes (4)" in words
    assert "No difference is shown" in words
    assert {"rates", "differences", "loss-curves"} <= {
        each.get("id", "") for each in markup.find("figure")
    }


def test_a_clear_difference_is_in_the_banner(files: Files, copy_files: Callable[[], Files]) -> None:
    worse = copy_files()
    play(worse, ["timeout"] * 40, first_seed=200000)
    words = render(make_view(worse), make_view(files)).words
    assert "A difference is shown. B succeeds more often than A, by 66.7 points" in words
    assert "unpaired, because the sets of trials differ" in words


def test_fields_of_the_manifests_that_differ_are_named(files: Files) -> None:
    changed = {**MANIFEST, "train": {**MANIFEST["train"], "steps": 600, "new": True}}
    words = render(make_view(files), make_view(files, manifest=changed)).words
    assert "Fields of the manifest that differ between A and B (2)" in words
    assert "train.steps 300 600" in words
    assert "train.new absent True" in words
    assert "The manifests of A and B are equal." in render(make_view(files), make_view(files)).words


def test_a_bundle_that_is_not_intact_spoils_the_comparison(files: Files) -> None:
    check = VerifyReport(
        path=Path("b"),
        verdict=Verdict.NOT_INTACT,
        findings=(error("changed", "was changed"),),
        content_digest=None,
        key_id=None,
        claims=Claims(),
    )
    words = render(make_view(files), make_view(files, check=check)).words
    assert "Not intact. B is not what was signed. Do not use this comparison." in words


def test_evaluations_of_different_tasks_are_not_compared(
    files: Files, copy_files: Callable[[], Files]
) -> None:
    other = copy_files()
    metrics = other["content/evaluate/metrics.json"]
    value = json.loads(metrics.read_text("utf-8"))
    metrics.write_text(json.dumps({**value, "task": "stack_blocks_two"}), "utf-8")
    words = render(make_view(files), make_view(other)).words
    assert "Not comparable. No two evaluations can be compared." in words
    assert "stack_blocks_two" in words


def test_a_run_that_was_not_evaluated_can_stand_beside_others(files: Files) -> None:
    kept = {name: path for name, path in files.items() if "/evaluate/" not in name}
    words = render(make_view(files), make_view(kept), make_view(files)).words
    assert "A and B. B was not evaluated." in words
    assert "2 comparisons are made here" in words


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text(files: Files, text: str) -> None:
    manifest = {**MANIFEST, "name": text, text: {text: text}}
    views = (make_view(files), make_view(files, name=text, manifest=manifest, content_digest=text))
    check_only_own_elements(render(*views))


def test_it_fits_a_phone_and_complains_of_nothing(
    browser: Browser, files: Files, other: Files, tmp_path: Path
) -> None:
    page = tmp_path / "comparison.html"
    write_comparison([make_view(files), make_view(other), make_view(files)], page)
    browser.resize(360, 740, phone=True)
    browser.open(page)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    assert not [name for name, _ in browser.events if name.startswith(("Log.", "Runtime.exc"))]
    assert find_violations(browser) == []
