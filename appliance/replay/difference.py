"""`appliance diff`: where two results part, from the manifest to the last episode.

Bytes decide whether a stage is the same (the digests of its content files); facts say what differs
and where first. What follows from an earlier difference is counted, not listed first. The
environment is compared too, but decides nothing: it explains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.digest import digest_files
from appliance.manifest.difference import changed_fields
from appliance.replay.comparison import PART_ORDER, is_same, order_key, read_number, walk
from appliance.replay.facts import read_stage_facts
from appliance.replay.results import STAGE_NAMES, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that differs; ABSENT where one side does not have it."""

    path: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """The first training step or episode in which two runs differ, and how many do.

    ``number`` is the step or episode, ``of`` how many both sides have, ``rows`` what differs in it.
    """

    kind: str
    number: int
    of: int
    differing: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDifference:
    """One stage of two results. ``state``: same, different, only in A, only in B.

    ``rows`` are the facts that differ outside steps and episodes, causes first; the first
    ``num_causes`` of them come before any step or episode (configuration, inputs, trials).
    """

    stage: str
    state: str
    files: tuple[str, ...]
    rows: tuple[Row, ...]
    parting: Parting | None
    num_causes: int = 0

    @property
    def first_row(self) -> Row | None:
        """The fact that explains the rest: before the steps or episodes, else in the first."""
        if self.num_causes:
            return self.rows[0]
        if self.parting is not None:
            return self.parting.rows[0]
        return self.rows[0] if self.rows else None

    @property
    def is_same(self) -> bool:
        """Whether every byte of the stage's content is the same."""
        return self.state == "same"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two results, compared."""

    a: Result
    b: Result
    manifest: tuple[Row, ...]
    stages: tuple[StageDifference, ...]
    environment: tuple[Row, ...]

    @property
    def is_same(self) -> bool:
        """Whether both are the same result; the environment does not count."""
        return not self.manifest and all(stage.is_same for stage in self.stages)

    @property
    def first_stage(self) -> StageDifference | None:
        """The first stage that differs."""
        return next((stage for stage in self.stages if not stage.is_same), None)


def compare_results(a: Result, b: Result) -> Difference:
    """Compare two results. Raises StorageError for files that cannot be read."""
    names = [name for name in STAGE_NAMES if name in a.stages or name in b.stages]
    return Difference(
        a=a,
        b=b,
        manifest=_changed(a.manifest, b.manifest),
        stages=tuple(_compare_stage(name, a, b) for name in names),
        environment=_compare_environment(a, b),
    )


def _compare_stage(name: str, a: Result, b: Result) -> StageDifference:
    if name not in a.stages or name not in b.stages:
        state = "only in A" if name in a.stages else "only in B"
        return StageDifference(stage=name, state=state, files=(), rows=(), parting=None)
    digests = [digest_files(side.stages[name].content) for side in (a, b)]
    files = sorted(
        path for path in {*digests[0], *digests[1]} if digests[0].get(path) != digests[1].get(path)
    )
    if not files:
        return StageDifference(stage=name, state="same", files=(), rows=(), parting=None)
    facts = [read_stage_facts(name, side.stages[name].content, side.reader) for side in (a, b)]
    sequence = {"train": "steps", "evaluate": "episodes"}.get(name)
    parting = None
    if sequence is not None:
        kind = sequence.removesuffix("s")
        parting = find_parting(kind, *(each.get(sequence, {}) for each in facts))
    rows = tuple(_fact_rows(name, facts[0], facts[1], without=sequence))
    before = PART_ORDER[name][: PART_ORDER[name].index(sequence)] if sequence else ()
    return StageDifference(
        stage=name,
        state="different",
        files=tuple(files),
        rows=rows,
        parting=parting,
        num_causes=sum(1 for row in rows if row.path.partition(".")[0] in before),
    )


def find_parting(kind: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Parting | None:
    """The first number whose rows differ, among those that both sides have; None when none does.

    A side that stops earlier parts there, when everything before is the same.
    """
    shared = sorted(a.keys() & b.keys(), key=order_key)
    differing = [number for number in shared if not is_same(a[number], b[number])]
    if differing:
        first = differing[0]
        rows = tuple(
            Row(path=f"{kind} {first}: {path}", a=before, b=after)
            for path, before, after in walk(a[first], b[first], "")
            if not is_same(before, after)
        )
    else:
        lone = sorted(a.keys() ^ b.keys(), key=order_key)
        if not lone:
            return None
        first, differing = lone[0], lone
        side = "A" if first in a else "B"
        rows = (Row(path=f"{kind} {first} is only in {side}", a=first in a, b=first in b),)
    number = read_number(first)
    return Parting(
        kind=kind,
        number=-1 if number is None else number,
        of=len(shared),
        differing=len(differing),
        rows=tuple(Row(path=row.path.replace(": .", ": "), a=row.a, b=row.b) for row in rows),
    )


def _fact_rows(
    stage: str, a: Mapping[str, Any], b: Mapping[str, Any], *, without: str | None
) -> Iterator[Row]:
    order = PART_ORDER[stage]
    for part in sorted({*a, *b} - {without}, key=lambda name: (order.index(name), name)):
        for path, before, after in walk(a.get(part, {}), b.get(part, {}), part):
            if not is_same(before, after):
                yield Row(path=path, a=before, b=after)


def _compare_environment(a: Result, b: Result) -> tuple[Row, ...]:
    """Packages, platform and source of the lock; host facts of the train stage's receipt."""
    sides = []
    for result in (a, b):
        train = result.stages.get("train")
        lock = {name: result.lock.get(name, {}) for name in ("packages", "platform", "sources")}
        sides.append({**lock, "host": {} if train is None else train.host})
    return _changed(sides[0], sides[1])


def _changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Row, ...]:
    return tuple(Row(path=path, a=old, b=new) for path, old, new in changed_fields(a, b))
