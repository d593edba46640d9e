"""`compare`."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from appliance.errors import EvaluationError
from appliance.evaluation.compare import Comparison, check_levels, compare_evaluations
from appliance.stages.evaluation_place import opened_evaluation


def compare(
    first: Path,
    second: Path,
    *,
    first_label: str | None,
    second_label: str | None,
    margin: float | None,
    alpha: float,
    as_json: bool,
) -> None:
    """Print the comparison. Raises EvaluationError, NotABundleError, StorageError.

    A margin or a level that cannot be tested is a wrong command line (typer.BadParameter).
    """
    try:
        check_levels(margin, alpha)
    except EvaluationError as error:
        raise typer.BadParameter(str(error)) from error
    names = _label(first), _label(second)
    if names[0] == names[1]:
        names = "A", "B"
    with opened_evaluation(first) as one, opened_evaluation(second) as other:
        comparison = compare_evaluations(
            one,
            other,
            first_label=first_label or names[0],
            second_label=second_label or names[1],
            margin=margin,
            alpha=alpha,
        )
    if as_json:
        typer.echo(json.dumps(comparison.to_dict(), indent=2, sort_keys=True))
    else:
        typer.echo(_describe(comparison))


def _label(folder: Path) -> str:
    return folder.resolve().name or str(folder)


def _describe(comparison: Comparison) -> str:
    lines = [comparison.sentence]
    needed = comparison.episodes_needed
    if needed is not None and comparison.equivalence is None:
        trials = "common trials" if comparison.is_paired else "trials a side"
        lines.append(
            f"Not decided: if the policies differ as they did here, about {needed} {trials}"
            " would tell them apart (power 0.8)."
        )
    return "\n".join(lines)
