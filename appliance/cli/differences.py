"""`diff`."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from appliance.errors import DifferentResultsError
from appliance.replay.difference import compare_results
from appliance.replay.difference_text import difference_to_dict, format_difference
from appliance.replay.results import open_result


def diff_results(a: Path, b: Path, *, as_json: bool) -> None:
    """Print where two results part; exit 0 when they are the same."""
    with open_result(a) as first, open_result(b) as second:
        difference = compare_results(first, second)
        if as_json:
            typer.echo(json.dumps(difference_to_dict(difference), indent=2, sort_keys=True))
        else:
            typer.echo(format_difference(difference))
    if not difference.is_same:
        raise typer.Exit(DifferentResultsError.exit_code)
