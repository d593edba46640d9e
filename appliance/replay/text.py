"""A replay's verdict for people: plain text, and Markdown for a CI job's summary."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from appliance.bundle.layout import show_name
from appliance.manifest.difference import FieldChange
from appliance.replay.comparison import Outcome, StageComparison, show
from appliance.replay.levels import MEANINGS
from appliance.replay.replay import Replay
from appliance.replay.verdict import Conclusion

MAX_DIFFERENCES = 8
WIDTH = 98
SIGNS = {
    Conclusion.REPRODUCED: "✅",
    Conclusion.NOT_REPRODUCED: "❌",
    Conclusion.INCONCLUSIVE: "❔",
    Conclusion.INVALID_INPUTS: "⛔",
}


def format_replay(replay: Replay) -> str:
    """The verdict, every level, what was compared, what differs, and what is different here."""
    verdict = replay.verdict
    headline = f"{verdict.conclusion.value}: {show_name(replay.subject.label)}"
    lines = [headline, *textwrap.wrap(show_name(verdict.reason), WIDTH), "", "Levels"]
    for level, result in verdict.levels.items():
        status = f"  {level.value}  {result.status.value:<13}"
        lines.extend(_hang(status, show_name(result.reason)))
    if replay.stages:
        lines += ["", "Compared"]
        lines.extend(f"  {text}" for text in map(describe_stage, replay.stages.values()))
    differences = [row for stage in replay.stages.values() for row in stage.differences]
    if differences:
        lines += ["", "Differences, the first one first"]
        lines.extend(f"  {show_name(row.sentence)}" for row in differences[:MAX_DIFFERENCES])
        if len(differences) > MAX_DIFFERENCES:
            lines.append(f"  ... and {len(differences) - MAX_DIFFERENCES} more")
    changes = platform_changes(replay)
    if changes:
        lines += ["", "Another platform than the original's"]
        lines.extend(f"  {text}" for text in describe_changes(changes))
    lines += ["", f"Evidence: {replay.work_dir}"]
    return "\n".join(lines)


def describe_stage(stage: StageComparison) -> str:
    """One stage's comparison on one line."""
    counts = [
        f"{stage.counts[outcome]} {outcome.value}"
        for outcome in (Outcome.EQUAL, Outcome.WITHIN, Outcome.NOT_COMPARABLE)
        if stage.counts.get(outcome)
    ]
    if stage.differences:
        counts.insert(0, f"{len(stage.differences)} different")
    return f"{stage.stage:<11} {', '.join(counts)}"


def platform_changes(replay: Replay) -> list[FieldChange]:
    """What differs between the original's platform and this one; empty without an original."""
    return [] if replay.there is None else replay.there.changes(replay.here)


def describe_changes(changes: Sequence[FieldChange], most: int = 6) -> Iterator[str]:
    """One line a changed field."""
    for path, there, here in changes[:most]:
        yield f"{path}: {show(there)} there, {show(here)} here"
    if len(changes) > most:
        yield f"... and {len(changes) - most} more"


def format_summary(replays: Sequence[Replay], errors: Sequence[tuple[str, str]]) -> str:
    """Markdown for a CI job's summary: a table of targets, then each one's levels.

    ``errors`` are (target, text) of those that could not be replayed at all.
    """
    lines = ["# Replay", "", "| target | verdict | level | reason |", "| --- | --- | --- | --- |"]
    for replay in replays:
        verdict = replay.verdict
        sign = SIGNS[verdict.conclusion]
        cells = (
            f"`{replay.subject.label}`",
            f"{sign} {verdict.conclusion.value}",
            "none" if verdict.level is None else verdict.level.value,
            verdict.reason,
        )
        lines.append(_row(cells))
    lines.extend(_row((f"`{label}`", "🛑 ERROR", "none", text)) for label, text in errors)
    for replay in replays:
        lines.extend(_summarize(replay))
    return "\n".join(lines) + "\n"


def _summarize(replay: Replay) -> Iterator[str]:
    yield from ("", f"## {_cell(replay.subject.name)}", "")
    yield "| level | status | what | evidence |"
    yield "| --- | --- | --- | --- |"
    for level, result in replay.verdict.levels.items():
        yield _row((level.value, result.status.value, MEANINGS[level], result.reason))
    rows = [row for stage in replay.stages.values() for row in stage.differences]
    if rows:
        yield from (
            "",
            "| stage | first differing | expected | found |",
            "| --- | --- | --- | --- |",
        )
        for row in rows[:MAX_DIFFERENCES]:
            yield _row((row.stage, f"`{row.path}`", show(row.expected), show(row.found)))
    changes = list(describe_changes(platform_changes(replay)))
    if changes:
        yield from ("", f"Another platform than the original's: {_cell('; '.join(changes))}")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    """Text that cannot end a table's cell or begin markup."""
    plain = show_name(" ".join(text.split()))
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _hang(start: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{start} ", subsequent_indent=" " * (len(start) + 1)
    )
