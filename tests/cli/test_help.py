"""Every command says what it does, in whole sentences, for every argument and option."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from appliance.cli.main import app
from tests.conftest import Appliance


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*path, name))


COMMANDS = dict(walk(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_leaves_nothing_open(path: tuple[str, ...], appliance: Appliance) -> None:
    done = appliance(*path, "--help")
    assert done.code == 0
    assert done.err == ""
    usage, _, rest = done.out.partition("\n")
    assert usage.startswith("Usage: ")
    assert "..." not in rest
    help_text = COMMANDS[path].help
    assert help_text
    assert help_text.strip().endswith(".")
    for parameter in COMMANDS[path].params:
        if parameter.name != "help":
            assert getattr(parameter, "help", None), parameter.name


@pytest.mark.parametrize("path", [path for path in COMMANDS if path], ids=" ".join)
def test_arguments_are_written_alike(path: tuple[str, ...]) -> None:
    for parameter in COMMANDS[path].params:
        if parameter.param_type_name == "argument":
            shown = parameter.metavar or parameter.name
            assert shown == shown.upper(), shown
