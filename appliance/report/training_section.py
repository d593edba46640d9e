"""Training: curves of loss, learning rate and gradient norm, the configuration, the hash chain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from appliance.report.blocks import Block, Cell, Facts, Fold, Note, Section, Tone, code_cell
from appliance.report.evidence import (
    Evidence,
    as_count,
    as_list,
    as_mapping,
    as_number,
    as_text,
)
from appliance.report.training_charts import Point, draw_curve
from appliance.report.wording import (
    NOT_RECORDED,
    show_count,
    show_duration,
    show_figure,
    show_share,
)

CURVE = "content/train/curve.jsonl"


def make_training_section(evidence: Evidence) -> Section:
    """The section "Training"."""
    run = evidence.read_mapping("content/train/run_summary.json")
    rows = evidence.read_rows(CURVE)
    if not run and not rows:
        note = Note(text="Nothing was trained yet.", tone=Tone.OPEN, word="Not run")
        return Section(name="training", title="Training", blocks=(note,))
    blocks: list[Block] = []
    if not run:
        blocks.append(
            Note(
                text=f"Training has not finished: {len(rows)} steps are recorded so far.",
                tone=Tone.OPEN,
                word="Unfinished",
            )
        )
    blocks.append(Facts(rows=tuple(_list_facts(evidence, run))))
    curves = {
        "loss": read_curve(rows, "loss"),
        "learning_rate": read_curve(rows, "learning_rate"),
        "grad_norm": read_curve(rows, "grad_norm"),
    }
    if curves["loss"]:
        blocks.append(draw_curve("loss", "Loss", "loss", curves["loss"]))
    if curves["learning_rate"]:
        blocks.append(
            draw_curve(
                "rate", "Learning rate", "learning rate", curves["learning_rate"], from_zero=True
            )
        )
    if curves["grad_norm"]:
        figure = draw_curve(
            "grad", "Gradient norm before clipping", "gradient norm", curves["grad_norm"]
        )
        blocks.append(Fold(summary="Gradient norm", blocks=(figure,)))
    if not rows and run:
        blocks.append(Note(text="There is no training curve: no step was taken."))
    return Section(name="training", title="Training", blocks=tuple(blocks))


def read_curve(rows: list[Mapping[str, Any]], field: str) -> list[Point]:
    """The field's values as (step, value), by ascending step; rows without one are left out."""
    points: list[Point] = []
    for row in rows:
        step, value = as_count(row.get("step")), as_number(row.get(field))
        if step is not None and value is not None and (not points or step > points[-1][0]):
            points.append((step, value))
    return points


def _list_facts(evidence: Evidence, run: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    configuration = as_mapping(run.get("configuration"))
    schedule = as_mapping(configuration.get("schedule_in_force"))
    if configuration:
        yield (
            "budget",
            Cell(
                text=f"{show_count(as_count(configuration.get('num_train_steps')))} steps of"
                f" {show_count(as_count(configuration.get('batch_size')))} samples, seed"
                f" {configuration.get('seed')}"
            ),
        )
        frozen = as_count(run.get("frozen_parameters"))
        yield (
            "parameters",
            Cell(
                text=f"{show_count(as_count(run.get('trained_parameters')))} trained,"
                f" {show_count(frozen)} frozen"
            ),
        )
        yield (
            "schedule",
            Cell(
                text=f"{as_text(schedule.get('kind')) or NOT_RECORDED}, peak"
                f" {show_figure(as_number(schedule.get('peak_lr')))}, to"
                f" {show_figure(as_number(schedule.get('decay_lr')))} at step"
                f" {show_count(as_count(schedule.get('decay_steps')))},"
                f" warm-up {show_count(as_count(schedule.get('warmup_steps')))} steps"
            ),
        )
        scale = as_number(run.get("plan_lr_scale"))
        yield (
            "plan-aware scale",
            Cell(text="off" if scale is None else f"{show_figure(scale)} times the peak"),
        )
    yield from _list_timing(evidence)
    if run:
        yield "hash chain, last link", code_cell(as_text(run.get("hash_chain")))
        yield "order of the data", code_cell(as_text(run.get("index_stream_sha256")))


def _list_timing(evidence: Evidence) -> Iterator[tuple[str, Cell]]:
    sessions = [
        as_mapping(each)
        for each in as_list(evidence.read_mapping("observed/train/timing.json").get("sessions"))
    ]
    if not sessions:
        return
    total = sum(as_number(each.get("total_s")) or 0.0 for each in sessions)
    last = sessions[-1]
    speed = as_number(last.get("steps_per_s"))
    wait = as_number(last.get("device_wait_fraction_at_most"))
    parts = [show_duration(total)]
    if len(sessions) > 1:
        parts.append(f"in {len(sessions)} sessions")
    if speed is not None:
        parts.append(f"{show_figure(speed, 3)} steps a second")
    if wait is not None:
        parts.append(f"waiting for data at most {show_share(wait)} of it")
    yield "time", Cell(text=", ".join(parts))
