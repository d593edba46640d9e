"""The evaluation: the success rate with its interval, and every episode with its video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from appliance.report.blocks import (
    Block,
    Cell,
    Facts,
    Note,
    Section,
    Tone,
    code_cell,
    make_table,
    text_cell,
)
from appliance.report.evaluation_charts import (
    Claim,
    Rate,
    draw_rates,
    draw_running_rate,
    draw_steps,
)
from appliance.report.evidence import (
    Evidence,
    as_count,
    as_fraction,
    as_list,
    as_mapping,
    as_number,
    as_text,
)
from appliance.report.videos import VideoShelf
from appliance.report.wording import NOT_RECORDED, count_of, show_count, show_duration, show_share

METRICS = "content/evaluate/metrics.json"
EPISODES = "content/evaluate/episodes.jsonl"
OBSERVED = "observed/evaluate/_metrics.json"
JOURNAL = "observed/evaluate/journal.jsonl"
MOST_EPISODES = 5_000
OUTCOMES = ("success", "timeout", "exception", "other")


def make_evaluation_section(evidence: Evidence, shelf: VideoShelf) -> Section:
    """The section "Evaluation"."""
    metrics = evidence.read_mapping(METRICS)
    rows = evidence.read_rows(EPISODES)[:MOST_EPISODES]
    title = "Evaluation"
    if not rows:
        text, word = _describe_progress(evidence)
        note = Note(text=text, tone=Tone.OPEN, word=word)
        return Section(name="evaluation", title=title, blocks=(note,))
    claim = _read_claim(shelf.view.manifest)
    blocks: list[Block] = [Facts(rows=tuple(_list_facts(evidence, metrics)))]
    rate = read_rate(metrics, as_text(metrics.get("task")) or "this run")
    if rate is not None:
        blocks.append(draw_rates("rate-interval", [rate], claim))
    outcomes = [as_text(row.get("outcome")) or "other" for row in rows]
    confidence = as_fraction(metrics.get("confidence")) or 0.95
    if 0 < confidence < 1:
        successes = [outcome == "success" for outcome in outcomes]
        blocks.append(draw_running_rate("running-rate", successes, confidence, claim))
    blocks.append(_tabulate_outcomes(outcomes))
    steps = {
        outcome: sorted(
            as_count(row.get("steps")) or 0 for row in rows if row.get("outcome") == outcome
        )
        for outcome in OUTCOMES
    }
    limit = max((max(each) for each in steps.values() if each), default=0)
    if 0 < limit < 10**7:
        blocks.append(draw_steps("episode-steps", steps, limit))
    blocks += _tabulate_episodes(evidence, rows, shelf)
    return Section(name="evaluation", title=title, blocks=tuple(blocks))


def read_rate(metrics: Mapping[str, Any], label: str) -> Rate | None:
    """The success rate with the interval the evaluation recorded; None when it did not."""
    successes, episodes = as_count(metrics.get("successes")), as_count(metrics.get("episodes"))
    interval = as_mapping(metrics.get("wilson_interval"))
    low, high = as_fraction(interval.get("low")), as_fraction(interval.get("high"))
    if successes is None or not episodes or successes > episodes or low is None or high is None:
        return None
    return Rate(label=label, successes=successes, episodes=episodes, low=low, high=high)


def _read_claim(manifest: Mapping[str, Any]) -> Claim | None:
    claim = as_mapping(as_mapping(manifest.get("expect")).get("success_rate"))
    value, margin = as_fraction(claim.get("value")), as_fraction(claim.get("margin"))
    return None if value is None or margin is None else Claim(value=value, margin=margin)


def _describe_progress(evidence: Evidence) -> tuple[str, str]:
    journal = evidence.read_rows(JOURNAL)
    records = [as_mapping(row.get("record")) for row in journal if row.get("kind") == "episode"]
    if not journal:
        return "Nothing was evaluated yet.", "Not run"
    successes = sum(record.get("outcome") == "success" for record in records)
    identity = as_mapping(journal[0].get("identity"))
    text = (
        f"{len(records)} of {show_count(as_count(identity.get('episodes')))} episodes are done so"
        f" far, {successes} of them successes. A rate is given when all are done."
    )
    return text, "Unfinished"


def _list_facts(evidence: Evidence, metrics: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    policy = as_mapping(metrics.get("policy"))
    simulator = as_mapping(metrics.get("simulator"))
    observed = evidence.read_mapping(OBSERVED)
    trials = as_mapping(metrics.get("trials"))
    interval = read_rate(metrics, "")
    if interval is not None:
        confidence = show_share(as_fraction(metrics.get("confidence")), 0)
        yield (
            "success rate",
            Cell(
                text=f"{show_share(interval.value)}: {interval.successes} of"
                f" {interval.episodes} episodes; {confidence} Wilson interval"
                f" {show_share(interval.low)} to {show_share(interval.high)}"
            ),
        )
    mean = as_number(metrics.get("avg_steps_success"))
    yield (
        "actions of a success",
        Cell(text="no success" if mean is None else f"{mean:.1f} on average"),
    )
    yield (
        "policy",
        Cell(
            text=f"{as_text(policy.get('config')) or NOT_RECORDED}, checkpoint"
            f" {show_count(as_count(policy.get('checkpoint')))},"
            f" {show_count(as_count(policy.get('sampling_steps')))} integration steps"
        ),
    )
    yield "policy parameters", code_cell(as_text(policy.get("params")))
    parts = [
        as_text(simulator.get(part)) or NOT_RECORDED for part in ("embodiment", "planner", "shader")
    ]
    yield (
        "measured with",
        Cell(text=f"embodiment {parts[0]}, planner {parts[1]}, shader {parts[2]}"),
    )
    skipped = len(as_list(trials.get("skipped")))
    yield (
        "trials",
        Cell(
            text=f"{as_text(trials.get('mode')) or NOT_RECORDED};"
            f" {count_of(skipped, 'scene seed')} skipped"
            " because the expert could not solve them"
            if as_text(trials.get("mode")) == "expert_checked"
            else as_text(trials.get("mode")) or NOT_RECORDED
        ),
    )
    failures = as_count(observed.get("simulator_failures"))
    if observed:
        yield "time", text_cell(show_duration(as_number(observed.get("eval_time_sec"))))
        yield "simulator restarts", text_cell(show_count(failures))


def _tabulate_outcomes(outcomes: list[str]) -> Block:
    meaning = {
        "success": "the task's own check was met",
        "timeout": "the step limit was reached",
        "exception": "raised in the rollout",
        "other": "ended without success before the limit",
    }
    total = len(outcomes)
    return make_table(
        "outcomes",
        "Outcomes",
        ("outcome", "#episodes", "#share", "meaning"),
        [
            (
                _outcome_cell(outcome),
                str(outcomes.count(outcome)),
                show_share(outcomes.count(outcome) / total),
                text,
            )
            for outcome, text in meaning.items()
        ],
    )


def _outcome_cell(outcome: str, failure: str | None = None) -> Cell:
    tone = Tone.GOOD if outcome == "success" else Tone.BAD
    text = outcome if failure is None else f"{outcome} ({failure})"
    return Cell(text=text, tone=tone if outcome in OUTCOMES else Tone.OPEN)


def _tabulate_episodes(
    evidence: Evidence, rows: list[Mapping[str, Any]], shelf: VideoShelf
) -> list[Block]:
    observed = {
        as_count(as_mapping(row).get("episode")): as_mapping(row)
        for row in as_list(evidence.read_mapping(OBSERVED).get("episode_rows"))
    }
    cells: list[tuple[Cell | str, ...]] = []
    linked = 0
    for row in rows:
        number = as_count(row.get("episode"))
        seen = observed.get(number, {})
        outcome = as_text(row.get("outcome")) or "other"
        failure = as_text(row.get("failure_class"))
        video = shelf.find(seen.get("video"), f"Video of episode {number}: {outcome}")
        linked += video is not None and not video.embedded
        cells.append(
            (
                str(number) if number is not None else NOT_RECORDED,
                Cell(text="play" if video is not None else "no video", video=video),
                _outcome_cell(outcome, failure),
                as_text(row.get("instruction")) or NOT_RECORDED,
                str(row.get("seed", "")),
                str(row.get("steps", "")),
                str(row.get("queries", "")),
                show_duration(as_number(seen.get("seconds"))) if seen else "",
                Cell(text=(as_text(row.get("actions_sha256")) or "")[:12], code=True),
            )
        )
    columns = (
        "episode",
        "video",
        "outcome",
        "instruction",
        "#scene seed",
        "#actions",
        "#queries",
        "#took",
        "actions' SHA-256 begins",
    )
    blocks: list[Block] = []
    if linked:
        blocks.append(
            Note(
                text="Videos are files of the bundle and are loaded only when they are played; the"
                " page finds them as long as it stays where it is. `appliance report BUNDLE"
                " --embed-videos` makes a page that carries them."
            )
        )
    blocks.append(make_table("episodes", f"All {len(rows)} episodes", columns, cells))
    return blocks
