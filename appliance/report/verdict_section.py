"""The verdict: what was checked, what was expected and what came out, before anything else.

The page repeats what others decided: the check of the bundle (:mod:`appliance.bundle.verify`) where
it was made, the figures under ``expect``, the claimed success rate by exact tests. It decides
nothing by itself, and a page inside a bundle cannot vouch for that bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.bundle.findings import Severity, Verdict, VerifyReport
from appliance.manifest.power import confirming_counts
from appliance.report.blocks import (
    Block,
    Cell,
    Fold,
    Note,
    Section,
    Tile,
    Tiles,
    Tone,
    make_table,
)
from appliance.report.evidence import (
    Evidence,
    as_count,
    as_fraction,
    as_mapping,
    as_text,
)
from appliance.report.judgements import list_judgements
from appliance.report.report_input import ReportInput
from appliance.report.wording import NOT_RECORDED, show_count, show_share

METRICS = "content/evaluate/metrics.json"
LEVELS = {
    "R0": ("bundle intact and signed", "attestation.sigstore.json", "appliance verify BUNDLE"),
    "R1": (
        "plan, norm stats and resolved configuration bit-identical, on any machine",
        "content/plan, content/norm_stats, content/train/run_summary.json",
        "appliance replay BUNDLE --level R1",
    ),
    "R2": (
        "training bit-identical on the same platform",
        "content/train/hash_chain.jsonl (a link for every step)",
        "appliance replay BUNDLE --level R2",
    ),
    "R3": (
        "evaluation identical episode by episode on the same platform",
        "content/evaluate/episodes.jsonl",
        "appliance replay BUNDLE --level R3",
    ),
    "R4": (
        "success rate statistically equivalent elsewhere, margin declared before training",
        "expect.success_rate in the manifest",
        "appliance replay BUNDLE --level R4",
    ),
    "R5": (
        "the same after retraining",
        "expect.success_rate in the manifest",
        "appliance replay BUNDLE --level R5",
    ),
}
_CHECKED = {
    Verdict.TRUSTED: (Tone.GOOD, "Intact, signer trusted"),
    Verdict.UNKNOWN_ORIGIN: (Tone.OPEN, "Intact, of unknown origin"),
    Verdict.NOT_INTACT: (Tone.BAD, "Not intact"),
    Verdict.NOT_A_BUNDLE: (Tone.BAD, "Not a bundle"),
}
_CHECKED_TEXT = {
    Verdict.TRUSTED: "Every file is exactly what was signed, by a key trusted on the machine that"
    " made this page. That shows that nothing changed since signing, not that the run was done"
    " honestly: a replay shows that.",
    Verdict.UNKNOWN_ORIGIN: "Every file is exactly what was signed, but the key is not one trusted"
    " on the machine that made this page: anybody could have made this bundle. Get the signer's"
    " public key from the signer.",
    Verdict.NOT_INTACT: "This is not what was signed, or its parts contradict each other. Do not"
    " use the figures below.",
    Verdict.NOT_A_BUNDLE: "There is no audit bundle here that this version can read.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictPart:
    """The head of the page and its first section."""

    name: str
    subtitle: str
    banner: Note
    section: Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """One figure the manifest expects, what came out, and whether that holds."""

    what: str
    expected: str
    found: str
    tone: Tone
    word: str


def make_verdict(evidence: Evidence, view: ReportInput) -> VerdictPart:
    """Name, banner and the section "Verdict"."""
    manifest = view.manifest
    expectations = list(_compare_expectations(evidence, view))
    banner = _make_banner(view, expectations)
    metrics = evidence.read_mapping(METRICS)
    blocks: list[Block] = [_make_tiles(evidence, metrics)]
    note = as_text(metrics.get("note"))
    if note:
        blocks.append(Note(text=note, tone=Tone.OPEN, word="Read this first"))
    if expectations:
        blocks.append(_tabulate_expectations(expectations))
    else:
        blocks.append(Note(text="The manifest declares no figure that the run must come out with."))
    blocks += list_judgements(evidence, view.check, view.replay, view.content_digest)
    if view.check is not None and view.check.findings:
        blocks.append(_tabulate_findings(view.check))
    if view.levels:
        blocks.append(_tabulate_levels(view))
    task = as_text(as_mapping(manifest.get("eval")).get("task"))
    dataset = as_text(as_mapping(manifest.get("dataset")).get("repo_id"))
    kind = "Report on an unfinished run" if view.stages else "Report on an audit bundle"
    return VerdictPart(
        name=view.name or "a run without a name",
        subtitle=f"{kind}: task {task or NOT_RECORDED}, dataset {dataset or NOT_RECORDED}",
        banner=banner,
        section=Section(name="verdict", title="Verdict", blocks=tuple(blocks)),
    )


def _make_banner(view: ReportInput, expectations: list[Expectation]) -> Note:
    if view.stages:
        missing = [stage.name for stage in view.stages if stage.state != "done"]
        if missing:
            return Note(
                tone=Tone.OPEN,
                word="Unfinished run",
                text=f"Not done yet: {', '.join(missing)}. Nothing here is signed; figures may"
                " still change.",
            )
    if view.check is not None:
        tone, word = _CHECKED[view.check.verdict]
        return Note(tone=tone, word=word, text=_CHECKED_TEXT[view.check.verdict])
    unmet = [each.what for each in expectations if each.tone is Tone.BAD]
    if unmet:
        return Note(
            tone=Tone.BAD,
            word="Not as expected",
            text=f"Came out differently than the manifest expects: {', '.join(unmet)}.",
        )
    met = "Every figure the manifest expects came out. " if _all_good(expectations) else ""
    return Note(
        tone=Tone.PLAIN,
        word="Recorded, not checked",
        text=f"{met}A page cannot vouch for the files it was made from: `appliance verify` checks"
        " every byte and the signature, and `appliance replay` whether the same comes out again.",
    )


def _all_good(expectations: list[Expectation]) -> bool:
    return bool(expectations) and all(each.tone is Tone.GOOD for each in expectations)


def _make_tiles(evidence: Evidence, metrics: Mapping[str, Any]) -> Tiles:
    episodes = as_count(metrics.get("episodes"))
    successes = as_count(metrics.get("successes"))
    interval = as_mapping(metrics.get("wilson_interval"))
    low, high = as_fraction(interval.get("low")), as_fraction(interval.get("high"))
    confidence = as_fraction(metrics.get("confidence"))
    summary = evidence.read_mapping("content/train/run_summary.json")
    steps = as_count(as_mapping(summary.get("configuration")).get("num_train_steps"))
    meta = evidence.read_mapping("content/plan/plan_meta.json")
    kept, total = as_count(meta.get("num_episodes_keep")), as_count(meta.get("num_episodes_total"))
    rate = as_fraction(metrics.get("success_rate"))
    tiles = [
        Tile(
            label="success rate",
            value=show_share(rate) if rate is not None else "not evaluated",
            remark=f"{successes} of {episodes} episodes" if episodes is not None else "",
        ),
        Tile(
            label=f"{show_share(confidence, 0)} interval" if confidence else "interval",
            value=f"{100 * low:.1f} – {show_share(high)}"
            if low is not None and high is not None
            else NOT_RECORDED,
            remark="Wilson score interval" if low is not None else "",
        ),
        Tile(
            label="demonstrations",
            value=f"{kept} of {total}" if kept is not None else "all",
            remark=f"{show_count(as_count(as_mapping(meta.get('summary')).get('num_anchors')))}"
            " training starts"
            if kept is not None
            else "no plan: uniform shuffling",
        ),
        Tile(
            label="training steps",
            value=show_count(steps) if steps is not None else "not trained",
            remark=f"{show_count(as_count(summary.get('trained_parameters')))} trained parameters"
            if steps is not None
            else "",
        ),
    ]
    return Tiles(tiles=tuple(tiles))


def _compare_expectations(evidence: Evidence, view: ReportInput) -> Iterator[Expectation]:
    expect = as_mapping(view.manifest.get("expect"))
    provenance = evidence.read_mapping("content/norm_stats/norm_stats_provenance.json")
    found = {
        "plan_sha256": as_text(
            evidence.read_mapping("content/plan/plan_meta.json").get("plan_sha256")
        ),
        "norm_stats_sha256": as_text(provenance.get("norm_stats_sha256")),
        "content_digest": view.content_digest,
    }
    for field, value in found.items():
        expected = as_text(expect.get(field))
        if expected is None:
            continue
        if value is None:
            yield Expectation(
                what=field, expected=expected, found="not there yet", tone=Tone.OPEN, word="open"
            )
            continue
        same = value == expected
        yield Expectation(
            what=field,
            expected=_shorten(expected) if same else expected,
            found=_shorten(value) if same else value,
            tone=Tone.GOOD if same else Tone.BAD,
            word="equal" if same else "differs",
        )
    claim = as_mapping(expect.get("success_rate"))
    if claim:
        yield _compare_rate(claim, evidence.read_mapping(METRICS))


def _shorten(digest: str) -> str:
    """The first sixteen digits, where the whole stands under "Hashes"."""
    return digest.rpartition(":")[2][:16] + "…"


def _compare_rate(claim: Mapping[str, Any], metrics: Mapping[str, Any]) -> Expectation:
    value, margin = as_fraction(claim.get("value")), as_fraction(claim.get("margin"))
    alpha = as_fraction(claim.get("alpha")) or 0.05
    successes, episodes = as_count(metrics.get("successes")), as_count(metrics.get("episodes"))
    expected = f"{show_share(value)} ± {100 * (margin or 0):.1f} points, alpha {alpha:g}"
    if value is None or margin is None or successes is None or not episodes or successes > episodes:
        return Expectation(
            what="success_rate",
            expected=expected,
            found="not there yet",
            tone=Tone.OPEN,
            word="open",
        )
    rate = successes / episodes
    counts = confirming_counts(episodes, value, margin, alpha) if episodes <= 100_000 else None
    tone, word = Tone.OPEN, "inconclusive: within the margin, not confirmed"
    if abs(rate - value) > margin + 1e-12:
        tone, word = Tone.BAD, "outside the margin"
    elif counts is not None and counts[0] <= successes <= counts[1]:
        tone, word = Tone.GOOD, "confirmed by exact tests"
    return Expectation(
        what="success_rate",
        expected=expected,
        found=f"{show_share(rate)} ({successes} of {episodes})",
        tone=tone,
        word=word,
    )


def _tabulate_expectations(expectations: list[Expectation]) -> Block:
    return make_table(
        "expectations",
        "What the manifest expects, and what came out",
        ("figure", "expected", "came out", "holds?"),
        [
            (
                Cell(text=each.what, code=True),
                Cell(text=each.expected, code=each.what != "success_rate"),
                Cell(text=each.found, code=each.what != "success_rate"),
                Cell(text=each.word, tone=each.tone),
            )
            for each in expectations
        ],
    )


def _tabulate_findings(check: VerifyReport) -> Block:
    rows: list[tuple[Cell | str, ...]] = [
        (
            Cell(
                text=finding.severity.value,
                tone=Tone.BAD if finding.severity is Severity.ERROR else Tone.OPEN,
            ),
            Cell(text=finding.path or "the whole", code=finding.path is not None),
            finding.message,
        )
        for finding in check.findings[:200]
    ]
    count = len(check.findings)
    caption = f"Findings of the check ({count}{', the first 200 shown' if count > 200 else ''})"
    return make_table("findings", caption, ("severity", "where", "what"), rows)


def _tabulate_levels(view: ReportInput) -> Block:
    rows: list[tuple[Cell | str, ...]] = []
    for level, (meaning, where, how) in LEVELS.items():
        recorded = (
            Cell(text="recorded", tone=Tone.GOOD)
            if level in view.levels
            else Cell(text="not recorded")
        )
        rows.append(
            (level, meaning, recorded, Cell(text=where, code=True), Cell(text=how, code=True))
        )
    table = make_table(
        "levels",
        "Levels of reproduction: the evidence this bundle holds for each",
        ("level", "what would be shown", "evidence", "where it lies", "how to check"),
        rows,
    )
    note = Note(
        text="Evidence recorded is not evidence checked: the last column says what checks it."
    )
    return Fold(summary="Levels of reproduction", blocks=(note, table))
