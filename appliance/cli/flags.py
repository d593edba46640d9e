"""Commands whose flags are made from a table that stands elsewhere: a dataclass, the schema."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import typer

Command = TypeVar("Command", bound=Callable[..., None])


def flag_name(parameter: str) -> str:
    """``num_stages`` as ``--num-stages``."""
    return f"--{parameter.replace('_', '-')}"


def make_flag(
    name: str, kind: Any, default: Any, *more_spellings: str, is_switch: bool = False, **option: Any
) -> inspect.Parameter:
    """One flag; a switch has a ``--no-`` form too. ``option`` is what typer's option takes."""
    spelling = flag_name(name)
    if is_switch:
        spelling = f"{spelling}/--no-{spelling[2:]}"
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, typer.Option(spelling, *more_spellings, **option)],
    )


def take_flags(command: Command, flags: Sequence[inspect.Parameter]) -> Command:
    """Give ``command``, which takes ``**values``, these flags beside its own."""
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    parameters = [*own, *flags]
    described: Any = command
    described.__signature__ = signature.replace(parameters=parameters)
    described.__annotations__ = {each.name: each.annotation for each in parameters}
    return command
