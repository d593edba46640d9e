"""The settings of a training as command-line flags, made from the schema.

Names, types, ranges, defaults and texts are those of the manifest's train part (Plan-STaR section
3, table) and of what decides float bits in its runtime part, in kebab-case. What names a file, and
the budget, is the command's own.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import typer

from appliance.cli.flags import Command, flag_name, make_flag, take_flags
from appliance.manifest.finding import KeyPath
from appliance.manifest.schema import allowed_types, default_values, schema_at

if TYPE_CHECKING:
    from appliance.manifest.model import InitPart, RuntimePart, TokenizerPart, TrainPart

OF_THE_COMMAND = ("steps", "init", "tokenizer")
OF_THE_RUNTIME = ("cpu_threads", "cpu_max_isa", "gpus")
_KINDS: Mapping[str, type] = {"boolean": bool, "integer": int, "number": float, "string": str}


def takes_train_settings(command: Command) -> Command:
    """Give ``command``, which takes ``**values``, one flag for each setting of the schema."""
    return take_flags(command, [_make_flag(name, part) for name, part in settings().items()])


def collect_train_part(
    values: Mapping[str, Any],
    *,
    steps: int,
    init: InitPart | None,
    tokenizer: TokenizerPart | None,
) -> TrainPart:
    """The train part of the flags' values. Raises typer.BadParameter for one out of range."""
    from appliance.manifest.model import TrainPart

    for name, part in settings().items():
        value, bound = values[name], part.get("exclusiveMinimum")
        if bound is not None and value is not None and value <= bound:
            raise typer.BadParameter(f"{flag_name(name)}: {value} is not more than {bound}.")
    own = {name: value for name, value in values.items() if name not in OF_THE_RUNTIME}
    return TrainPart(**own, steps=steps, init=init, tokenizer=tokenizer)


def collect_runtime_part(values: Mapping[str, Any]) -> RuntimePart:
    """The runtime part of the flags' values; the rest of it is the schema's defaults."""
    from appliance.manifest.model import RuntimePart

    own = {name: values[name] for name in OF_THE_RUNTIME}
    return RuntimePart(**{**default_values(("runtime",)), **own})


def check_name(parameter: str, value: str | None, place: KeyPath) -> None:
    """``value``, if given, is what the schema takes at ``place``. Raises typer.BadParameter."""
    part = schema_at(place)
    if value is not None and re.search(part["pattern"], value) is None:
        raise typer.BadParameter(f"{flag_name(parameter)} {value!r}: {part['patternErrorMessage']}")


def settings() -> dict[str, Mapping[str, Any]]:
    """The schema's description of every setting that has a flag, by name."""
    train, runtime = (schema_at((part,))["properties"] for part in ("train", "runtime"))
    return {
        **{name: part for name, part in train.items() if name not in OF_THE_COMMAND},
        **{name: runtime[name] for name in OF_THE_RUNTIME},
    }


def _make_flag(name: str, part: Mapping[str, Any]) -> inspect.Parameter:
    types = allowed_types(part)
    kind: Any = Literal[tuple(part["enum"])] if "enum" in part else _KINDS[types[0]]
    return make_flag(
        name,
        kind | None if "null" in types else kind,
        part.get("default", inspect.Parameter.empty),
        is_switch=kind is bool,
        help=part["description"].replace("null", "left out"),
        min=part.get("minimum"),
        max=part.get("maximum"),
        show_default="default" in part,
    )
