"""What was run: the stages with their durations, and the manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from appliance.report.blocks import (
    Block,
    Cell,
    Code,
    Facts,
    Figure,
    Fold,
    Note,
    Section,
    Tone,
    make_table,
    text_cell,
)
from appliance.report.evidence import (
    Evidence,
    as_count,
    as_mapping,
    as_number,
    as_text,
)
from appliance.report.report_input import ReportInput
from appliance.report.svg import WIDE_PX, element, make_figure, write_text
from appliance.report.wording import NOT_RECORDED, show_count, show_duration, show_share

STAGES = ("dataset", "plan", "norm_stats", "train", "evaluate")
_WORK = {
    "dataset": "checked the dataset against its fingerprint",
    "plan": "fixed which frames may start a training window",
    "norm_stats": "normalization statistics",
    "train": "fine-tuned the policy",
    "evaluate": "rolled the policy out in the simulator",
}


def make_run_section(evidence: Evidence, view: ReportInput) -> Section:
    """The section "What was run"."""
    manifest = view.manifest
    blocks: list[Block] = []
    states = {stage.name: stage.state for stage in view.stages}
    rows = [
        (name, _seconds(evidence, name), states.get(name, ""))
        for name in STAGES
        if evidence.has(_receipt(name)) or name in states
    ]
    if rows:
        blocks.append(_tabulate_stages(evidence, rows))
        timed = [(name, seconds) for name, seconds, _ in rows if seconds is not None]
        if timed and sum(seconds for _, seconds in timed) > 0:
            blocks.append(draw_durations("durations", timed))
    if manifest:
        blocks.append(Facts(rows=tuple(_list_settings(evidence, manifest))))
        text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
        blocks.append(
            Fold(
                summary="The whole manifest, every default filled in",
                blocks=(Code(caption="Manifest, normalized", text=text),),
            )
        )
    else:
        blocks.append(Note(text="There is no manifest among the files."))
    written = evidence.read_text("observed/manifest.yaml")
    if written:
        code = Code(caption="manifest.yaml", text=written)
        blocks.append(Fold(summary="The manifest as it was written", blocks=(code,)))
    return Section(name="run", title="What was run", blocks=tuple(blocks))


def _receipt(stage: str) -> str:
    return f"observed/receipts/{stage}.json"


def _seconds(evidence: Evidence, stage: str) -> float | None:
    times = as_mapping(evidence.read_mapping(_receipt(stage)).get("times"))
    seconds = as_number(times.get("seconds"))
    return seconds if seconds is not None and seconds >= 0 else None


def _tabulate_stages(evidence: Evidence, rows: list[tuple[str, float | None, str]]) -> Block:
    cells: list[tuple[Cell | str, ...]] = []
    for name, seconds, state in rows:
        receipt = evidence.read_mapping(_receipt(name))
        times = as_mapping(receipt.get("times"))
        done = Cell(text="done", tone=Tone.GOOD)
        status = done if state in ("", "done") else Cell(text=state, tone=Tone.OPEN)
        cells.append(
            (
                name,
                _WORK[name],
                status,
                _show_time(as_text(times.get("started_utc"))),
                show_duration(seconds) if seconds is not None else "",
                Cell(
                    text=(as_text(receipt.get("content_digest")) or "").rpartition(":")[2][:16],
                    code=True,
                ),
            )
        )
    return make_table(
        "stages",
        "Stages, in the order they ran",
        ("stage", "what it did", "state", "started (UTC)", "#took", "content digest begins"),
        cells,
    )


def _show_time(text: str | None) -> str:
    """``2026-11-22 13:12:10`` of an RFC 3339 time in UTC; another text as it is."""
    if text is None:
        return ""
    return text.replace("T", " ").removesuffix("Z").removesuffix("+00:00")


def draw_durations(name: str, timed: list[tuple[str, float]]) -> Figure:
    """A bar for each stage, as long as it took."""
    most = max(seconds for _, seconds in timed)
    total = sum(seconds for _, seconds in timed)

    def draw(width: int) -> tuple[float, list[Markup]]:
        label, value = 84.0, 84.0 if width == WIDE_PX else 74.0
        room = width - label - value
        parts: list[Markup] = []
        for number, (stage, seconds) in enumerate(timed):
            y = 4.0 + 24.0 * number
            bar = max(1.5, room * seconds / most)
            parts.append(write_text(label - 8, y + 14, stage, text_anchor="end"))
            parts.append(element("rect", x=label, y=y + 2, width=bar, height=16, class_="weight"))
            parts.append(write_text(label + bar + 6, y + 14, show_duration(seconds)))
        return 8.0 + 24.0 * len(timed), parts

    text = f"Together {show_duration(total)}. " + ", ".join(
        f"{stage} {show_duration(seconds)} ({show_share(seconds / total, 0)})"
        for stage, seconds in timed
    )
    return make_figure(name, "How long the stages took", text + ".", draw)


def _list_settings(evidence: Evidence, manifest: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    dataset, plan = as_mapping(manifest.get("dataset")), as_mapping(manifest.get("plan"))
    train, evaluation = as_mapping(manifest.get("train")), as_mapping(manifest.get("eval"))
    runtime, norm = as_mapping(manifest.get("runtime")), as_mapping(manifest.get("norm_stats"))
    locked = as_mapping(evidence.read_mapping("observed/lock.json").get("dataset"))
    size = (
        f", {show_count(as_count(locked.get('num_episodes')))} episodes,"
        f" {show_count(as_count(locked.get('num_frames')))} frames"
        if locked
        else ""
    )
    yield "dataset", Cell(text=f"{dataset.get('repo_id', NOT_RECORDED)}{size}")
    if plan:
        yield (
            "sampling plan",
            Cell(
                text=f"{_say(plan, 'num_episodes_keep')} episodes kept (seed"
                f" {_say(plan, 'episode_selection_seed')}), stride {_say(plan, 'stride')},"
                f" {_say(plan, 'num_stages')} stages by {_say(plan, 'stage_strategy')},"
                f" balance {_say(plan, 'stage_balance')}, gripper events"
                f" {'on' if plan.get('gripper_event_enabled') is True else 'off'}"
            ),
        )
    else:
        yield "sampling plan", Cell(text="none: the baseline, uniform shuffling")
    yield (
        "normalization",
        Cell(text=f"{_say(norm, 'mode')} over {_say(norm, 'subset')}"),
    )
    yield (
        "training",
        Cell(
            text=f"{_say(train, 'config')}, {_say(train, 'steps')} steps, batch"
            f" {_say(train, 'batch_size', 'of the preset')}, seed {_say(train, 'seed')}"
        ),
    )
    yield (
        "evaluation",
        Cell(
            text=f"{_say(evaluation, 'task')} ({_say(evaluation, 'task_config')}),"
            f" {_say(evaluation, 'episodes')} episodes from seed {_say(evaluation, 'seed')},"
            f" {_say(evaluation, 'instruction_type')} instructions,"
            f" {_say(evaluation, 'action_steps')} actions a query"
        ),
    )
    yield (
        "measured with",
        Cell(
            text=f"{_say(evaluation, 'simulator')}: embodiment {_say(evaluation, 'embodiment')},"
            f" planner {_say(evaluation, 'planner')}, shader {_say(evaluation, 'shader')}"
        ),
    )
    yield "engine", text_cell(as_text(runtime.get("engine")))


def _say(part: Mapping[str, Any], key: str, absent: str = NOT_RECORDED) -> str:
    value = part.get(key)
    return absent if value is None or isinstance(value, list | Mapping) else str(value)
