"""The parameters of a sampling plan as command-line flags, made from ``PlanParams`` itself.

Names, types and defaults are those of the dataclass (Plan-STaR section 1, table), in kebab-case;
only the help texts and the historic spellings are written here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from typer.core import TyperCommand

from appliance.cli.flags import Command, flag_name, make_flag, take_flags
from appliance.errors import PlanError
from appliance.plan.params import PlanParams

HELP: Mapping[str, str] = {
    "num_episodes_keep": "Episodes to keep. Default: 50, or all of a smaller dataset.",
    "episode_selection_seed": "Seed of the choice of episodes.",
    "valid_start_tail_keep": "Frames allowed past the strict last start, at most H - 1.",
    "stride": "Frames between anchors inside an episode.",
    "plan_seed": "Seed of each episode's stride offset.",
    "min_anchors": "At least so many anchors. Default: the batch size.",
    "stage_strategy": "How an episode is cut into stages.",
    "num_stages": "Number of stages K.",
    "change_point_delta": "Difference step of change_point_state, in frames.",
    "change_point_min_gap": "Least distance between stage boundaries, in frames.",
    "stage_balance": "How stages are balanced.",
    "inv_freq_power": "Exponent of inv_freq.",
    "clip_ratio": "Weights are clipped to median/ratio and median*ratio.",
    "epsilon_mix": "Share of the mean weight mixed into every weight.",
    "gripper_event_enabled": "Weight anchors near gripper events.",
    "gripper_dims": "Indices of the grippers in observation.state, with commas.",
    "gripper_smooth_window": "Length of the median filter, odd, in frames.",
    "gripper_delta1": "First difference step, in frames.",
    "gripper_delta2": "Second difference step, in frames.",
    "gripper_quantile_q": "Only changes above this quantile count as events.",
    "gripper_min_gap": "Least distance between events, in frames.",
    "gripper_event_mode": "How the weight falls with the distance from an event.",
    "gripper_sigma": "Decay length of soft_exp, in frames.",
    "gripper_window_w": "Window of hard, in frames.",
    "gripper_gamma": "Strength: the multiplier is 1 + gamma * nearness.",
    "gripper_reduce": "Several grippers: maximum of values, or of each one's differences.",
    "sampler_seed": "Recorded; seeds the training sampler.",
    "replacement": "Recorded; draw with replacement. Also --replacement true|false.",
}
HISTORIC_SPELLINGS: Mapping[str, str] = {"stride": "--stride-S", "num_stages": "--num-stages-K"}

_WORDS = {"true": True, "false": False}


def takes_plan_parameters(command: Command) -> Command:
    """Give ``command``, which takes ``**values``, one flag for each field of ``PlanParams``."""
    return take_flags(command, _make_parameters())


def collect_plan_parameters(values: Mapping[str, Any]) -> PlanParams:
    """The parameters from the values of their flags. Raises PlanError."""
    text = values["gripper_dims"]
    try:
        dims = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise PlanError(
            f"--gripper-dims {text}: not a list of indices. Write them with commas, such as 6,13."
        ) from error
    return PlanParams.from_mapping({**values, "gripper_dims": dims})


class PlanCommand(TyperCommand):
    """A command whose on/off flags also take a word: ``--replacement true``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse after ``--flag true|false`` became ``--flag`` or ``--no-flag``."""
        return super().parse_args(ctx, respell_words(args))


def respell_words(arguments: list[str]) -> list[str]:
    """``--flag true``, ``--flag=false`` of on/off flags as ``--flag``, ``--no-flag``."""
    flags = {
        flag_name(field.name): f"--no-{flag_name(field.name)[2:]}"
        for field in fields(PlanParams)
        if isinstance(field.default, bool)
    }
    respelled: list[str] = []
    for argument in arguments:
        name, _, word = argument.partition("=")
        before = respelled[-1] if respelled else ""
        if name in flags and word.lower() in _WORDS:
            respelled.append(name if _WORDS[word.lower()] else flags[name])
        elif before in flags and argument.lower() in _WORDS:
            respelled[-1] = before if _WORDS[argument.lower()] else flags[before]
        else:
            respelled.append(argument)
    return respelled


def _make_parameters() -> list[inspect.Parameter]:
    types = get_type_hints(PlanParams)
    parameters = []
    for field in fields(PlanParams):
        kind, default = types[field.name], field.default
        historic = HISTORIC_SPELLINGS.get(field.name)
        if isinstance(default, tuple):
            kind, default = str, ",".join(map(str, default))
        parameters.append(
            make_flag(
                field.name,
                kind,
                default,
                *([] if historic is None else [historic]),
                is_switch=kind is bool,
                help=HELP[field.name],
            )
        )
    return parameters
