"""A difference of two results for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from appliance.bundle.layout import show_name
from appliance.manifest.difference import ABSENT
from appliance.replay.comparison import show
from appliance.replay.difference import Difference, Parting, Row, StageDifference

MAX_SHOWN = 6
MAX_LISTED = 1000


def format_difference(difference: Difference) -> str:
    """The two results' names, then what differs: manifest, stages, environment."""
    a, b = difference.a, difference.b
    lines = [f"A  {show_name(a.label)} ({a.kind})", f"B  {show_name(b.label)} ({b.kind})", ""]
    lines.append(_headline(difference))
    if difference.manifest:
        lines += ["", "Manifest", *_describe_rows(difference.manifest)]
    lines += ["", "Stages"]
    for stage in difference.stages:
        lines.extend(_describe_stage(stage))
    if not difference.stages:
        lines.append("  neither has a finished stage")
    if difference.environment:
        lines += ["", "Environment (explains, decides nothing)"]
        lines.extend(_describe_rows(difference.environment))
    return "\n".join(lines)


def difference_to_dict(difference: Difference) -> dict[str, Any]:
    """The difference as JSON values; at most ``MAX_LISTED`` rows a part, all of them counted."""
    first = difference.first_stage
    return {
        "same": difference.is_same,
        "first_divergent_stage": None if first is None else first.stage,
        "a": _side_to_dict(difference.a),
        "b": _side_to_dict(difference.b),
        "manifest": _rows_to_list(difference.manifest),
        "stages": [_stage_to_dict(stage) for stage in difference.stages],
        "environment": _rows_to_list(difference.environment),
    }


def _headline(difference: Difference) -> str:
    if difference.is_same:
        return "SAME: every byte of every stage's content is the same."
    first = difference.first_stage
    if first is None:
        return "DIFFERENT in the manifest only; every stage's content is the same."
    if first.state != "different":
        return f"DIFFERENT: stage {first.stage} is {first.state}."
    row = first.first_row
    if row is None:
        return f"DIFFERENT from stage {first.stage} on: file {show_name(first.files[0])}."
    where = f"{show_name(row.path)} is {_show(row.a)} in A, {_show(row.b)} in B"
    return f"DIFFERENT from stage {first.stage} on: {where}."


def _describe_stage(stage: StageDifference) -> Iterator[str]:
    if stage.state != "different":
        yield f"  {stage.stage:<11} {stage.state}"
        return
    files = f"{len(stage.files)} file{'s' if len(stage.files) > 1 else ''}"
    yield f"  {stage.stage:<11} different: {files}, first {show_name(stage.files[0])}"
    indent = " " * 14
    if stage.parting is not None:
        yield f"{indent}{_describe_parting(stage.parting)}"
        for text in _describe_rows(stage.parting.rows):
            yield f"{indent}{text}"
    for text in _describe_rows(stage.rows):
        yield f"{indent}{text.lstrip()}"


def _describe_parting(parting: Parting) -> str:
    plural = "" if parting.differing == 1 else "s"
    return (
        f"first divergent {parting.kind} {parting.number}; {parting.differing}"
        f" {parting.kind}{plural} differ{'s' if not plural else ''}, {parting.of} in both"
    )


def _describe_rows(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows[:MAX_SHOWN]:
        yield f"  {show_name(row.path)}: {_show(row.a)} | {_show(row.b)}"
    if len(rows) > MAX_SHOWN:
        yield f"  ... and {len(rows) - MAX_SHOWN} more (--json has all)"


def _show(value: Any) -> str:
    return show_name(show(value))


def _side_to_dict(result: Any) -> dict[str, Any]:
    return {
        "path": show_name(result.label),
        "kind": result.kind,
        "name": show_name(result.name),
        "content_digest": result.content_digest,
    }


def _stage_to_dict(stage: StageDifference) -> dict[str, Any]:
    parting = stage.parting
    return {
        "stage": stage.stage,
        "state": stage.state,
        "files": list(stage.files[:MAX_LISTED]),
        "differing_facts": len(stage.rows),
        "differences": _rows_to_list(stage.rows),
        "first_divergent": None
        if parting is None
        else {
            "kind": parting.kind,
            "number": parting.number,
            "in_both": parting.of,
            "differing": parting.differing,
            "differences": _rows_to_list(parting.rows),
        },
    }


def _rows_to_list(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {
            "path": row.path,
            **{
                name: _plain(value)
                for name, value in (("a", row.a), ("b", row.b))
                if value is not ABSENT
            },
        }
        for row in rows[:MAX_LISTED]
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
