"""Plans as text for a terminal: a summary, a table of stages, a histogram, an exposure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from appliance.plan.exposure import Exposure
from appliance.report.plan_summary import EventSummary, PlanSummary, StageShare, WeightBin
from appliance.report.wording import name_runs

_NAME_WIDTH = 20
_BAR_WIDTH = 40


def describe_summary(summary: PlanSummary) -> str:
    """Settings, stages, events and weights, one block each."""
    settings = summary.settings
    kept = settings["episodes_keep"] if isinstance(settings["episodes_keep"], list) else []
    kept = [each for each in kept if isinstance(each, int)]
    lines = [
        _line("plan_sha256", settings["plan_sha256"]),
        _line("version", settings["plan_version"]),
        _line("dataset", f"{settings['repo_id']} ({settings['dataset_len']} frames)"),
        _line("fingerprint", settings["dataset_fingerprint"]),
        _line("training", f"{settings['train_config_name']}, batch {settings['batch_size']}"),
        _line("horizon", f"{settings['action_horizon_H']} frames, tail {settings['tail_keep']}"),
        _line(
            "episodes", f"{len(kept)} of {settings['num_episodes_total']}: {name_runs(kept, 12)}"
        ),
        _line("valid starts", settings["num_valid_frames"]),
        _line("anchors", f"{summary.num_anchors}, {_describe_stride(settings)}"),
        _line("ESS", f"{summary.ess:.1f}"),
        _line("replacement", settings["replacement"]),
        "",
        f"stages ({settings['stage_strategy']}, {settings['stage_balance']})",
        *_describe_stages(summary.stages),
        "",
        *_describe_events(summary.events),
        "",
        "weights",
        *_describe_weights(summary.weights),
    ]
    return "\n".join(lines)


def describe_exposure(exposure: Exposure) -> str:
    """The figures of Plan-STaR 1.10 under their names, and each stage's expected draws."""
    how = "with" if exposure.replacement else "without"
    return "\n".join(
        [
            f"\nexposure of {exposure.n} draws {how} replacement",
            _line("ESS", f"{exposure.ess:.1f} of {exposure.num_anchors} anchors"),
            _line("expected unique", f"{exposure.expected_unique:.1f}"),
            _line("expected coverage", f"{exposure.expected_coverage:.2%}"),
            _line("average repeat", f"{exposure.avg_repeat:.2f}"),
            _line("effective repeat", f"{exposure.n / exposure.ess:.2f} (draws / ESS)"),
        ]
    )


def _line(name: str, value: Any) -> str:
    return f"{name:<{_NAME_WIDTH}}{'not recorded' if value is None else value}"


def _describe_stride(settings: Any) -> str:
    stride, requested = settings["stride_S"], settings["stride_requested"]
    words = "one every frame" if stride == 1 else f"one every {stride} frames"
    if requested is None or stride == requested:
        return words
    return f"{words} (stride {requested} was halved for enough anchors)"


def _describe_stages(stages: Iterable[StageShare]) -> list[str]:
    rows = [f"  {'stage':>5}  {'anchors':>9}  {'probability':>11}"]
    rows += [f"  {each.stage:>5}  {each.anchors:>9}  {each.mass:>11.2%}" for each in stages]
    return rows


def _describe_events(events: EventSummary) -> list[str]:
    if not events.enabled:
        return [_line("gripper events", "off")]
    least, mean, most = (events.per_episode.get(key) for key in ("min", "mean", "max"))
    spread = ""
    if isinstance(mean, int | float):
        spread = f" (per episode: {least} to {most}, mean {mean:.2f})"
    return [_line("gripper events", f"{events.count}{spread}")]


def _describe_weights(bins: Iterable[WeightBin]) -> list[str]:
    rows = list(bins)
    most = max(each.anchors for each in rows)
    return [
        f"  {each.low:>11.4g} .. {each.high:<11.4g}  {each.anchors:>9}  "
        + "#" * -(-each.anchors * _BAR_WIDTH // most)
        for each in rows
    ]
