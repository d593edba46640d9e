"""The plan and its exposure: what may be drawn, how often it was to be drawn, and how often it was.

Without a plan the section says so and gives the figures of uniform shuffling. Letters: N anchors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from appliance.errors import ApplianceError
from appliance.plan.anchors import clamp_tail_keep, count_valid_starts
from appliance.plan.files import check_plan_hash, read_plan
from appliance.plan.plan import ARRAYS_FILE, META_FILE, Plan
from appliance.report.blocks import (
    Block,
    Cell,
    Facts,
    Fold,
    Note,
    Section,
    Tone,
    code_cell,
    make_table,
    text_cell,
)
from appliance.report.evidence import (
    Evidence,
    as_count,
    as_list,
    as_mapping,
    as_number,
    as_text,
)
from appliance.report.exposure_charts import ShareRow, draw_histogram, draw_shares
from appliance.report.plan_charts import (
    FIRST_ROWS,
    MOST_ROWS,
    EpisodeAnchors,
    draw_episode,
    draw_weights,
)
from appliance.report.plan_record import (
    RECORD_FILE,
    RecordedEpisode,
    read_episodes,
    read_state_names,
)
from appliance.report.plan_summary import PlanSummary, summarize_plan
from appliance.report.state_panels import find_gripper_dims, group_dims
from appliance.report.wording import (
    NOT_RECORDED,
    name_runs,
    show_count,
    show_figure,
    show_share,
)

RECORD = f"observed/plan/{RECORD_FILE}"
_MOST_ANCHORS = 2_000_000
_MOST_STAGES = 200
_NORMAL_95 = 1.959963984540054


def make_plan_section(evidence: Evidence) -> Section:
    """The section "Plan and exposure"."""
    blocks: list[Block] = []
    run = evidence.read_mapping("content/train/run_summary.json")
    plan = _load_plan(evidence)
    if plan is None:
        has_files = evidence.has(f"content/plan/{META_FILE}")
        text = (
            "The plan's files cannot be read; see what could not be read, below."
            if has_files
            else "There is no plan: every frame may start a window, in uniformly shuffled epochs"
            " (the baseline)."
        )
        blocks.append(
            Note(
                text=text,
                tone=Tone.BAD if has_files else Tone.PLAIN,
                word="Not readable" if has_files else "",
            )
        )
        if run:
            blocks.append(_tabulate_exposure(run, {}))
        return Section(name="plan", title="Plan and exposure", blocks=tuple(blocks))
    summary = summarize_plan(plan)
    blocks.append(Facts(rows=tuple(_list_facts(plan, summary))))
    blocks += _draw_plan(evidence, plan, summary)
    expected = evidence.read_mapping("content/plan/exposure.json")
    blocks.append(_tabulate_exposure(run, expected))
    rows = _share_rows(summary, run, expected, plan.meta)
    if rows:
        blocks.append(draw_shares("draws", rows))
        blocks.append(_tabulate_shares(rows))
    blocks.append(_explain_terms())
    return Section(name="plan", title="Plan and exposure", blocks=tuple(blocks))


def _load_plan(evidence: Evidence) -> Plan | None:
    meta = evidence.files.get(f"content/plan/{META_FILE}")
    arrays = evidence.files.get(f"content/plan/{ARRAYS_FILE}")
    if meta is None or arrays is None:
        return None
    try:
        plan = read_plan(meta.parent)
        check_plan_hash(plan)
        if len(plan.weights) > _MOST_ANCHORS or int(plan.stage_ids.max()) >= _MOST_STAGES:
            raise ApplianceError("the plan is too large to be drawn")
        summarize_plan(plan)
    except (ApplianceError, ValueError, OverflowError) as error:
        evidence.problems[f"content/plan/{META_FILE}"] = str(error)
        return None
    return plan


def _list_facts(plan: Plan, summary: PlanSummary) -> Iterator[tuple[str, Cell]]:
    settings = summary.settings
    kept = [each for each in as_list(settings["episodes_keep"]) if isinstance(each, int)]
    yield "plan digest", code_cell(as_text(settings["plan_sha256"]))
    yield (
        "episodes kept",
        Cell(text=f"{len(kept)} of {settings['num_episodes_total']}: {name_runs(kept)}"),
    )
    stride, requested = settings["stride_S"], settings["stride_requested"]
    halved = "" if requested in (None, stride) else f" ({requested} was halved for enough anchors)"
    yield (
        "anchors",
        Cell(
            text=f"{show_count(summary.num_anchors)} training starts: every"
            f" {'frame' if stride == 1 else f'{stride} frames'}{halved}, of"
            f" {show_count(as_count(settings['num_valid_frames']))} valid ones"
        ),
    )
    yield (
        "action horizon",
        Cell(
            text=f"{settings['action_horizon_H']} frames, "
            + (
                "windows end inside their episode"
                if settings["tail_keep"] == 0
                else f"windows may run {settings['tail_keep']} frames past their episode's end"
            )
        ),
    )
    yield (
        "stages",
        Cell(
            text=f"{settings['num_stages_K']} by {settings['stage_strategy']},"
            f" balance {settings['stage_balance']}"
        ),
    )
    events = summary.events
    yield (
        "gripper events",
        Cell(text=f"{show_count(events.count)} found" if events.enabled else "off"),
    )
    weights = plan.weights.astype(np.float64)
    yield (
        "weights",
        Cell(
            text=f"from {show_figure(float(weights.min() / weights.mean()), 3)} to"
            f" {show_figure(float(weights.max() / weights.mean()), 3)} times the mean;"
            f" effective sample size {summary.ess:.1f} of {show_count(len(weights))}"
            f" ({show_share(summary.ess / len(weights))})"
        ),
    )


def _draw_plan(evidence: Evidence, plan: Plan, summary: PlanSummary) -> list[Block]:
    record = evidence.read_mapping(RECORD)
    recorded = read_episodes(record)
    episodes = [each for each in _split_anchors(plan, recorded) if len(each.frames)]
    blocks: list[Block] = []
    num_stages = max(len(summary.stages), 1)
    if episodes:
        blocks.append(draw_weights("weights", episodes, num_stages, most_rows=FIRST_ROWS))
        if len(episodes) > FIRST_ROWS:
            figure = draw_weights("weights-more", episodes, num_stages, most_rows=MOST_ROWS)
            blocks.append(Fold(summary="The same for more episodes", blocks=(figure,)))
        names = read_state_names(record)
        closely = []
        for each in episodes:
            if each.state_LxS is None:
                continue
            width = each.state_LxS.shape[1]
            panels = list(group_dims(width, find_gripper_dims(plan.meta, width), names))
            closely.append(draw_episode(f"episode-{each.episode}", each, panels, num_stages))
        if closely:
            which = ", ".join(figure.title.split()[-1] for figure in closely)
            blocks.append(
                Fold(
                    summary=f"Closely: states, stages and weights of episodes {which}"
                    " (shortest, median, longest)",
                    blocks=tuple(closely),
                )
            )
    else:
        blocks.append(
            Note(
                text="These files do not say where the kept episodes lie in the dataset"
                f" ({RECORD} is missing), so weights cannot be drawn over time."
            )
        )
    bins = [(each.low, each.high, each.anchors) for each in summary.weights]
    mean = float(plan.weights.astype(np.float64).mean())
    if bins and mean > 0:
        figure = draw_histogram("weight-spread", bins, mean)
        blocks.append(Fold(summary="How the weights are spread", blocks=(figure,)))
    return blocks


def _split_anchors(plan: Plan, recorded: Sequence[RecordedEpisode]) -> Iterator[EpisodeAnchors]:
    """The plan's anchors episode by episode, in frames of the episode."""
    horizon = as_count(plan.meta.get("action_horizon_H")) or 1
    tail = as_count(as_mapping(plan.meta.get("valid_start_rule")).get("tail_keep")) or 0
    mean = float(plan.weights.astype(np.float64).mean())
    events = plan.extra_arrays.get("event_rows")
    if mean <= 0:
        return
    for each in recorded:
        first, end = each.first_row, each.first_row + each.length
        low, high = np.searchsorted(plan.anchor_indices, [first, end]).tolist()
        lengths = np.array([each.length], dtype=np.int64)
        valid = count_valid_starts(lengths, horizon, clamp_tail_keep(tail, horizon))
        inside = None
        if events is not None:
            inside = events[(events >= first) & (events < end)].astype(np.int64) - first
        yield EpisodeAnchors(
            episode=each.episode,
            length=each.length,
            num_valid_starts=int(valid[0]),
            frames=plan.anchor_indices[low:high] - first,
            stages=plan.stage_ids[low:high],
            relative=plan.weights[low:high].astype(np.float64) / mean,
            events=inside,
            state_LxS=each.state_LxS,
        )


def _tabulate_exposure(run: Mapping[str, Any], expected: Mapping[str, Any]) -> Block:
    """Expected figures from training's summary, before training from the plan stage's."""
    source = run if "exposure_n" in run else expected
    draws = as_count(run.get("realized_n"))
    rows: list[tuple[Cell | str, ...]] = [
        ("draws", show_count(as_count(source.get("exposure_n"))), show_count(draws)),
        (
            "different anchors drawn",
            _one_decimal(source.get("exposure_expected_unique")),
            show_count(as_count(run.get("realized_unique"))),
        ),
        (
            "coverage",
            show_share(as_number(source.get("exposure_expected_coverage")), 2),
            show_share(as_number(run.get("realized_coverage")), 2),
        ),
        (
            "draws for each anchor seen",
            _two_decimals(source.get("exposure_avg_repeat")),
            _two_decimals(run.get("realized_avg_repeat")),
        ),
        ("effective sample size", _one_decimal(source.get("exposure_ESS")), ""),
        ("draws for each effective anchor", _two_decimals(run.get("plan_effective_repeat")), ""),
    ]
    return make_table(
        "exposure",
        "Exposure: what the budget was expected to see, and what training drew",
        ("figure", "#expected", "#realized"),
        rows,
    )


def _one_decimal(value: object) -> str:
    number = as_number(value)
    return NOT_RECORDED if number is None else f"{number:,.1f}".replace(",", "\u202f")


def _two_decimals(value: object) -> str:
    number = as_number(value)
    return NOT_RECORDED if number is None else f"{number:,.2f}".replace(",", "\u202f")


def _share_rows(
    summary: PlanSummary,
    run: Mapping[str, Any],
    expected: Mapping[str, Any],
    meta: Mapping[str, Any],
) -> list[ShareRow]:
    """A row a stage. Draws with replacement are independent, so their number is binomial."""
    draws = as_count((run if "exposure_n" in run else expected).get("exposure_n"))
    replacement = as_mapping(run.get("configuration")).get("sampler_replacement")
    if replacement is None:
        replacement = meta.get("replacement")
    realized = [as_count(value) for value in as_list(run.get("realized_draws_per_stage"))]
    rows = []
    for share in summary.stages:
        mean = None if draws is None else draws * share.mass
        low = high = None
        if draws is not None and mean is not None and replacement is True:
            reach = _NORMAL_95 * math.sqrt(draws * share.mass * max(0.0, 1 - share.mass))
            low, high = max(0.0, mean - reach), min(float(draws), mean + reach)
        rows.append(
            ShareRow(
                stage=share.stage,
                anchors=share.anchors,
                mass=share.mass,
                expected=mean,
                low=low,
                high=high,
                realized=realized[share.stage] if share.stage < len(realized) else None,
            )
        )
    return rows if draws else []


def _tabulate_shares(rows: Sequence[ShareRow]) -> Block:
    cells: list[tuple[Cell | str, ...]] = []
    for row in rows:
        verdict = Cell(text="")
        if row.realized is not None and row.low is not None and row.high is not None:
            inside = row.low <= row.realized <= row.high
            verdict = Cell(
                text="inside the range" if inside else "outside the range",
                tone=Tone.GOOD if inside else Tone.OPEN,
            )
        span = "" if row.low is None else f"{show_count(row.low)} to {show_count(row.high)}"
        cells.append(
            (
                str(row.stage),
                show_count(row.anchors),
                show_share(row.mass, 2),
                "" if row.expected is None else _one_decimal(row.expected),
                span,
                "" if row.realized is None else show_count(row.realized),
                verdict,
            )
        )
    return make_table(
        "draws-data",
        "Draws by stage. One stage in twenty falls outside the 95 % range by chance alone",
        (
            "stage",
            "#anchors",
            "#probability",
            "#expected draws",
            "#95 % range",
            "#realized",
            "holds?",
        ),
        cells,
    )


def _explain_terms() -> Block:
    terms = (
        ("anchor", "A frame that may start a training window of the action horizon."),
        ("weight", "How likely an anchor is drawn, in proportion to the others."),
        ("stage", "A part of an episode; weights are balanced so that short parts are not lost."),
        (
            "effective sample size",
            "ESS: so many equally weighted anchors would be drawn with the same concentration.",
        ),
        ("coverage", "Share of the anchors drawn at least once."),
        ("expected", "Computed from the weights and the number of draws, before training."),
        ("realized", "Counted by training, draw by draw."),
    )
    facts = Facts(rows=tuple((term, text_cell(text)) for term, text in terms))
    return Fold(summary="What these words mean", blocks=(facts,))
