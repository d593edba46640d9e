"""Several bundles on one page: what differs in what was asked, and in what came out.

Every other bundle is compared with the first. Where both were evaluated on the same trials the
comparison is paired, trial by trial (:mod:`appliance.evaluation.compare`).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.bundle.findings import Verdict
from appliance.errors import ApplianceError
from appliance.evaluation.compare import Comparison, compare_evaluations
from appliance.files import write_atomic
from appliance.manifest.difference import ABSENT, changed_fields
from appliance.report.blocks import (
    Block,
    Cell,
    Fold,
    Note,
    Section,
    Tone,
    make_table,
)
from appliance.report.comparison_charts import draw_curves, draw_differences
from appliance.report.evaluation_charts import draw_rates
from appliance.report.evaluation_section import EPISODES, METRICS, read_rate
from appliance.report.evidence import (
    Evidence,
    as_count,
    as_mapping,
    as_number,
    as_text,
)
from appliance.report.page import fill_template
from appliance.report.report_input import ReportInput
from appliance.report.training_section import CURVE, read_curve
from appliance.report.wording import NOT_RECORDED, show_count, show_figure, show_share

MOST_BUNDLES = 12
_LETTERS = "ABCDEFGHIJKL"
_MOST_TRIALS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One of the bundles under its letter."""

    letter: str
    view: ReportInput
    evidence: Evidence

    @property
    def label(self) -> str:
        """The letter and the name."""
        return f"{self.letter}: {self.view.name or NOT_RECORDED}"


def write_comparison(views: Sequence[ReportInput], path: Path) -> None:
    """Write the comparison of two to twelve bundles to ``path``. Raises StorageError."""
    write_atomic(path, render_comparison(views), doing="writing the comparison")


def render_comparison(views: Sequence[ReportInput]) -> bytes:
    """The page as UTF-8; the same bundles in the same order give the same bytes."""
    entries = [
        Entry(letter=letter, view=view, evidence=Evidence(view.files))
        for letter, view in zip(_LETTERS, views, strict=False)
    ]
    pairs = [(other, *_compare(entries[0], other)) for other in entries[1:]]
    sections = [
        _make_overview(entries),
        _make_success(entries, pairs),
        _make_differences(entries),
        _make_training(entries),
        _make_trials(entries),
    ]
    problems = sorted(
        (entry.letter, name, why)
        for entry in entries
        for name, why in entry.evidence.problems.items()
    )
    if problems:
        rows = [(letter, Cell(text=name, code=True), why) for letter, name, why in problems]
        table = make_table("unread", "Files that could not be read", ("of", "file", "why"), rows)
        sections.append(Section(name="unread", title="What could not be read", blocks=(table,)))
    return fill_template(
        "report.html.jinja",
        title=" and ".join(entry.letter for entry in entries) + " compared",
        subtitle="; ".join(entry.label for entry in entries),
        banner=_make_banner(entries, pairs),
        sections=sections,
    )


Pair = tuple[Entry, Comparison | None, str]


def _compare(first: Entry, second: Entry) -> tuple[Comparison | None, str]:
    """The comparison of two evaluations, or why there is none."""
    folders = []
    for entry in (first, second):
        path = entry.view.files.get(METRICS)
        if path is None or EPISODES not in entry.view.files:
            return None, f"{entry.letter} was not evaluated."
        folders.append(path.parent)
    try:
        found = compare_evaluations(
            folders[0], folders[1], first_label=first.letter, second_label=second.letter
        )
    except ApplianceError as error:
        return None, str(error)
    return found, found.sentence


def _make_banner(entries: Sequence[Entry], pairs: Sequence[Pair]) -> Note:
    spoiled = [
        entry.letter
        for entry in entries
        if entry.view.check is not None and not entry.view.check.intact
    ]
    if spoiled:
        return Note(
            tone=Tone.BAD,
            word="Not intact",
            text=f"{', '.join(spoiled)} is not what was signed. Do not use this comparison.",
        )
    decided = [
        (other, found)
        for other, found, _ in pairs
        if found is not None and not found.interval.low <= 0 <= found.interval.high
    ]
    if decided:
        text = " ".join(_say_difference(entries[0], other, found) for other, found in decided)
        return Note(tone=Tone.PLAIN, word="A difference is shown", text=text)
    if any(found is not None for _, found, _ in pairs):
        return Note(
            tone=Tone.OPEN,
            word="No difference is shown",
            text="Every interval of a difference of success rates holds zero. That does not show"
            " that the rates are equal: see the intervals.",
        )
    return Note(tone=Tone.OPEN, word="Not comparable", text="No two evaluations can be compared.")


def _say_difference(first: Entry, other: Entry, found: Comparison) -> str:
    better, worse = (
        (first.letter, other.letter) if found.difference > 0 else (other.letter, first.letter)
    )
    low, high = sorted((abs(found.interval.low), abs(found.interval.high)))
    return (
        f"{better} succeeds more often than {worse}, by {100 * abs(found.difference):.1f} points"
        f" (95 % interval {100 * low:.1f} to {100 * high:.1f})."
    )


def _make_overview(entries: Sequence[Entry]) -> Section:
    """The figures a person asks for first, a column for each bundle."""
    rows: list[tuple[Cell | str, ...]] = []
    for label, values in _list_figures(entries):
        same = len(set(values)) == 1
        shown = [
            Cell(text=value, code=len(value) >= 16 and " " not in value and "…" in value)
            for value in values
        ]
        mark = Cell(text="= same" if same else "≠ differs")
        rows.append((label, *shown, mark))
    columns = ("figure", *(entry.label for entry in entries), "equal?")
    table = make_table("overview", "The figures of each", columns, rows)
    return Section(name="side-by-side", title="Side by side", blocks=(table,))


def _list_figures(entries: Sequence[Entry]) -> Iterator[tuple[str, list[str]]]:
    figures = [_read_figures(entry) for entry in entries]
    for label in figures[0]:
        yield label, [each[label] for each in figures]


def _read_figures(entry: Entry) -> dict[str, str]:
    evidence, manifest = entry.evidence, entry.view.manifest
    metrics, run = evidence.read_mapping(METRICS), evidence.read_mapping(_SUMMARY)
    meta = evidence.read_mapping("content/plan/plan_meta.json")
    norm = evidence.read_mapping("content/norm_stats/norm_stats_provenance.json")
    rate = read_rate(metrics, "")
    loss = read_curve(evidence.read_rows(CURVE), "loss")
    tail = [value for _, value in loss[-max(1, len(loss) // 10) :]]
    dataset, train = as_mapping(manifest.get("dataset")), as_mapping(manifest.get("train"))
    check = entry.view.check
    return {
        "check": "not checked" if check is None else _VERDICTS[check.verdict],
        "content digest": _shorten(entry.view.content_digest),
        "task": as_text(as_mapping(manifest.get("eval")).get("task")) or NOT_RECORDED,
        "dataset": as_text(dataset.get("repo_id")) or NOT_RECORDED,
        "dataset fingerprint": _shorten(as_text(dataset.get("fingerprint"))),
        "plan": _shorten(as_text(meta.get("plan_sha256"))) if meta else "none (baseline)",
        "demonstrations": show_count(as_count(meta.get("num_episodes_keep"))) if meta else "all",
        "anchors": show_count(as_count(as_mapping(meta.get("summary")).get("num_anchors"))),
        "norm stats": _shorten(as_text(norm.get("norm_stats_sha256"))),
        "training steps": show_count(as_count(train.get("steps"))),
        "effective sample size": show_figure(as_number(run.get("exposure_ESS"))),
        "coverage realized": show_share(as_number(run.get("realized_coverage"))),
        "loss, median of the last tenth": show_figure(statistics.median(tail) if tail else None),
        "order of the data": _shorten(as_text(run.get("index_stream_sha256"))),
        "hash chain of training": _shorten(as_text(run.get("hash_chain"))),
        "success rate": NOT_RECORDED if rate is None else show_share(rate.value),
        "successes": NOT_RECORDED if rate is None else f"{rate.successes} of {rate.episodes}",
        "95 % interval": NOT_RECORDED
        if rate is None
        else f"{show_share(rate.low)} to {show_share(rate.high)}",
    }


_SUMMARY = "content/train/run_summary.json"
_VERDICTS = {
    Verdict.TRUSTED: "intact, signer trusted",
    Verdict.UNKNOWN_ORIGIN: "intact, of unknown origin",
    Verdict.NOT_INTACT: "NOT INTACT",
    Verdict.NOT_A_BUNDLE: "not a bundle",
}


def _shorten(digest: str | None) -> str:
    return NOT_RECORDED if not digest else digest.rpartition(":")[2][:16] + "…"


def _make_success(entries: Sequence[Entry], pairs: Sequence[Pair]) -> Section:
    blocks: list[Block] = []
    rates = [
        rate
        for entry in entries
        if (rate := read_rate(entry.evidence.read_mapping(METRICS), entry.label)) is not None
    ]
    if rates:
        blocks.append(draw_rates("rates", rates, None))
    shown = [(other.letter, found) for other, found, _ in pairs if found is not None]
    if shown:
        blocks.append(draw_differences("differences", entries[0].letter, shown))
        blocks.append(_tabulate_pairs(entries[0], shown))
    for other, found, text in pairs:
        word = "" if found is not None else f"{entries[0].letter} and {other.letter}"
        blocks.append(Note(text=text, tone=Tone.PLAIN if found else Tone.OPEN, word=word))
    if len(pairs) > 1:
        blocks.append(
            Note(
                text=f"{len(pairs)} comparisons are made here, and none is corrected for there"
                " being others: the more are made, the more differ by chance."
            )
        )
    return Section(name="success", title="Success", blocks=tuple(blocks))


def _tabulate_pairs(first: Entry, shown: Sequence[tuple[str, Comparison]]) -> Block:
    rows: list[tuple[Cell | str, ...]] = []
    for letter, found in shown:
        pairs = found.pairs
        counts = ["", "", "", ""]
        test = f"Fisher's exact p = {found.fisher_p:.3g}" if found.fisher_p is not None else ""
        if pairs is not None and found.mcnemar_p is not None:
            solved = (pairs.both, pairs.only_first, pairs.only_second, pairs.neither)
            counts = [str(count) for count in solved]
            test = f"exact McNemar p = {found.mcnemar_p:.3g}"
        rows.append(
            (
                f"{first.letter} and {letter}",
                *counts,
                f"{100 * found.difference:+.1f}",
                f"{100 * found.interval.low:+.1f} to {100 * found.interval.high:+.1f}",
                test,
            )
        )
    columns = (
        "pair",
        "#both",
        "#only the first",
        "#only the second",
        "#neither",
        "#difference (points)",
        "#95 % interval",
        "test",
    )
    return make_table("pairs", "Trials solved, and the difference of the rates", columns, rows)


def _make_differences(entries: Sequence[Entry]) -> Section:
    blocks: list[Block] = []
    first = entries[0]
    for other in entries[1:]:
        changes = changed_fields(first.view.manifest, other.view.manifest)
        name = f"{first.letter} and {other.letter}"
        if not changes:
            blocks.append(Note(text=f"The manifests of {name} are equal."))
            continue
        rows = [
            (Cell(text=path, code=True), _show_value(old), _show_value(new))
            for path, old, new in changes[:500]
        ]
        caption = f"Fields of the manifest that differ between {name} ({len(changes)})"
        columns = ("field", first.letter, other.letter)
        blocks.append(make_table(f"manifest-{other.letter}", caption, columns, rows))
    return Section(name="asked", title="What was asked", blocks=tuple(blocks))


def _show_value(value: Any) -> Cell:
    if value is ABSENT:
        return Cell(text="absent")
    text = value if isinstance(value, str) else repr(value)
    return Cell(text=text if len(text) <= 200 else text[:197] + "…", code=True)


def _make_training(entries: Sequence[Entry]) -> Section:
    blocks: list[Block] = []
    for field, label in (("loss", "loss"), ("learning_rate", "learning rate")):
        curves = [
            (entry.letter, points)
            for entry in entries
            if (points := read_curve(entry.evidence.read_rows(CURVE), field))
        ]
        if curves:
            blocks.append(draw_curves(f"{field}-curves", label, curves))
    if not blocks:
        blocks.append(Note(text="None of them was trained."))
    return Section(name="training", title="Training", blocks=tuple(blocks))


def _make_trials(entries: Sequence[Entry]) -> Section:
    """Every trial's outcome in every bundle, those that differ first."""
    by_entry = [_read_outcomes(entry) for entry in entries]
    seeds = sorted({seed for outcomes in by_entry for seed in outcomes})[:_MOST_TRIALS]
    if not seeds:
        note = Note(text="No trial is recorded.")
        return Section(name="trials", title="Trials", blocks=(note,))
    different = [seed for seed in seeds if len({outcomes.get(seed) for outcomes in by_entry}) > 1]
    equal = [seed for seed in seeds if seed not in set(different)]
    blocks: list[Block] = []
    columns = ("scene seed", *(entry.label for entry in entries))
    for name, caption, part in (
        ("trials-different", "Trials with different outcomes", different),
        ("trials-equal", "Trials with equal outcomes", equal),
    ):
        rows: list[tuple[Cell | str, ...]] = [
            (str(seed), *[_outcome_cell(outcomes.get(seed)) for outcomes in by_entry])
            for seed in part
        ]
        if not rows:
            blocks.append(Note(text=f"{caption}: none."))
            continue
        table = make_table(name, f"{caption} ({len(part)})", columns, rows)
        if name == "trials-different":
            blocks.append(table)
        else:
            blocks.append(Fold(summary=f"{caption} ({len(part)})", blocks=(table,)))
    return Section(name="trials", title="Trials", blocks=tuple(blocks))


def _read_outcomes(entry: Entry) -> Mapping[int, str]:
    found: dict[int, str] = {}
    for row in entry.evidence.read_rows(EPISODES):
        seed, outcome = as_count(row.get("seed")), as_text(row.get("outcome"))
        if seed is not None and outcome is not None:
            found[seed] = outcome
    return found


def _outcome_cell(outcome: str | None) -> Cell:
    if outcome is None:
        return Cell(text="not played")
    return Cell(text=outcome, tone=Tone.GOOD if outcome == "success" else Tone.BAD)
