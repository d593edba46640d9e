"""What was declared before training, and what others judged afterwards: replays, countersignatures.

Nothing is judged here. A countersignature by a key that is not trusted says nothing, and a replay's
verdict is shown only as far as it is about this very bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from appliance.bundle.findings import Countersignature, VerifyReport
from appliance.bundle.preregistration import (
    RECEIPT_PATH,
    REGISTRATION_PATH,
    describe_preregistration,
    read_training,
)
from appliance.report.blocks import Block, Cell, Facts, Fold, Note, Tone, make_table
from appliance.report.evidence import Evidence, as_count, as_list, as_mapping, as_text
from appliance.report.wording import NOT_RECORDED, show_count

REPLAY_FORMAT = "plan-star-replay-verdict-v1"
_MOST_ROWS = 60
_TONES = {
    "REPRODUCED": Tone.GOOD,
    "NOT REPRODUCED": Tone.BAD,
    "INCONCLUSIVE": Tone.OPEN,
    "INVALID INPUTS": Tone.BAD,
}
_STATUS_TONES = {"shown": Tone.GOOD, "contradicted": Tone.BAD}


def list_judgements(
    evidence: Evidence,
    check: VerifyReport | None,
    replay: Mapping[str, Any],
    content_digest: str | None,
) -> Iterator[Block]:
    """The declaration, a replay's verdict that was given, and the countersignatures found."""
    data = evidence.read_bytes(REGISTRATION_PATH)
    training = read_training(evidence.read_bytes(RECEIPT_PATH))
    declared = None if data is None else describe_preregistration(data, training)
    if declared is not None:
        yield Facts(rows=(("declared and signed", Cell(text=declared)),))
    if replay:
        yield from describe_replay(replay, content_digest)
    signed = () if check is None else check.countersignatures
    if signed:
        yield _tabulate_countersignatures(signed)
    for item in signed:
        if item.trusted and item.replay:
            yield from describe_replay(item.replay, content_digest)
    if check is not None and not replay and not any(item.replay for item in signed):
        yield Note(
            text="No replay of this bundle is known here: `appliance replay` makes one, and"
            " `appliance report --replay VERDICT.json` shows it."
        )


def describe_replay(replay: Mapping[str, Any], content_digest: str | None) -> Iterator[Block]:
    """A replay's verdict with what each level came to."""
    if replay.get("format") != REPLAY_FORMAT:
        yield Note(
            tone=Tone.BAD,
            word="Not a replay's verdict",
            text=f"The document is not of the form {REPLAY_FORMAT}.",
        )
        return
    about = as_text(replay.get("content_digest"))
    if about is not None and content_digest is not None and about != content_digest:
        yield Note(
            tone=Tone.BAD,
            word="A replay of something else",
            text=f"It is about {about}, this page about {content_digest}.",
        )
        return
    verdict = as_text(replay.get("verdict")) or NOT_RECORDED
    needed = as_count(replay.get("episodes_needed"))
    more = "" if needed is None else f" {show_count(needed)} episodes would decide."
    yield Note(
        tone=_TONES.get(verdict, Tone.OPEN),
        word=f"Replay: {verdict}",
        text=(as_text(replay.get("reason")) or "No reason is given") + "." + more,
    )
    yield from _tabulate_levels(as_mapping(replay.get("levels")))
    rows = [as_mapping(stage) for stage in as_list(replay.get("stages"))]
    if rows:
        yield Fold(
            summary="What the replay compared, stage by stage", blocks=(_tabulate_stages(rows),)
        )


def _tabulate_levels(levels: Mapping[str, Any]) -> Iterator[Block]:
    rows: list[tuple[Cell | str, ...]] = []
    for level, value in sorted(levels.items()):
        fields = as_mapping(value)
        status = as_text(fields.get("status")) or NOT_RECORDED
        rows.append(
            (
                level,
                as_text(fields.get("meaning")) or "",
                Cell(text=status, tone=_STATUS_TONES.get(status, Tone.OPEN)),
                as_text(fields.get("reason")) or "",
            )
        )
    if rows:
        columns = ("level", "what it means", "came to", "why")
        yield make_table("replay-levels", "What the replay showed, level by level", columns, rows)


def _tabulate_stages(stages: list[Mapping[str, Any]]) -> Block:
    rows: list[tuple[Cell | str, ...]] = []
    for stage in stages[:_MOST_ROWS]:
        first = as_mapping(stage.get("first_difference"))
        different = as_count(stage.get("different"))
        where = as_text(first.get("path"))
        rows.append(
            (
                as_text(stage.get("stage")) or NOT_RECORDED,
                show_count(as_count(stage.get("equal"))),
                show_count(as_count(stage.get("within_tolerance"))),
                show_count(different),
                show_count(as_count(stage.get("not_comparable"))),
                Cell(text=where, code=True) if where else "",
                str(first.get("expected", ""))[:200],
                str(first.get("found", ""))[:200],
            )
        )
    return make_table(
        "replay-stages",
        "Figures compared by the replay",
        (
            "stage",
            "#equal",
            "#within tolerance",
            "#different",
            "#not comparable",
            "first difference",
            "original",
            "replay",
        ),
        rows,
    )


def _tabulate_countersignatures(items: tuple[Countersignature, ...]) -> Block:
    rows: list[tuple[Cell | str, ...]] = []
    for item in items:
        verdict = as_text(item.replay.get("verdict")) if item.replay else None
        rows.append(
            (
                Cell(text=item.key_id[:16] + "…", code=True),
                Cell(text="trusted", tone=Tone.GOOD)
                if item.trusted
                else Cell(text="not trusted: says nothing", tone=Tone.OPEN),
                item.result,
                ", ".join(item.levels),
                verdict or "none",
                item.verified_on or NOT_RECORDED,
            )
        )
    return make_table(
        "countersignatures",
        "Countersignatures next to the bundle",
        ("key begins", "key", "result", "levels", "replay", "when"),
        rows,
    )
