"""`replay`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from appliance.bundle.keys import SigningKey, load_or_create_key
from appliance.cli.passphrase import find_passphrase
from appliance.cli.places import user_cache_dir
from appliance.errors import (
    ApplianceError,
    InconclusiveError,
    InvalidInputsError,
    NotReproducedError,
    ReplayError,
)
from appliance.files import write_atomic
from appliance.manifest.model import EngineName
from appliance.replay.countersign import check_can_be_signed, countersign
from appliance.replay.document import write_verdict
from appliance.replay.junit import write_junit
from appliance.replay.levels import Level
from appliance.replay.places import Places
from appliance.replay.replay import Replay, ReplayOptions, record, replay
from appliance.replay.subject import DamagedBundle, Subject, list_targets, open_subject
from appliance.replay.text import format_replay, format_summary
from appliance.replay.verdict import Conclusion
from appliance.replay.work import Passage, WorkFolder

EXIT_CODES = {
    Conclusion.REPRODUCED: 0,
    Conclusion.NOT_REPRODUCED: NotReproducedError.exit_code,
    Conclusion.INCONCLUSIVE: InconclusiveError.exit_code,
    Conclusion.INVALID_INPUTS: InvalidInputsError.exit_code,
}
_WORST_FIRST = (
    Conclusion.NOT_REPRODUCED,
    Conclusion.INVALID_INPUTS,
    Conclusion.INCONCLUSIVE,
    Conclusion.REPRODUCED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """The command line of `replay`."""

    target: Path
    level: str
    spot: str | None
    budget_min: float
    places: Places
    engine: EngineName | None
    work_dir: Path | None
    junit: Path | None
    summary: Path | None
    output: Path | None
    record: bool
    sign: bool
    passphrase_file: Path | None
    as_json: bool


def replay_target(request: ReplayRequest) -> None:
    """Replay one target or a folder of goldens; the exit code is the worst verdict's."""
    asked, spot = parse_level(request.level), parse_passage(request.spot)
    targets = list_targets(request.target)
    replays: list[Replay] = []
    errors: list[tuple[str, ApplianceError]] = []
    documents: list[dict[str, Any]] = []
    key = None
    for target in targets:
        if not request.as_json:
            typer.echo(f"{target}", err=True)
        try:
            with open_subject(target, request.places) as subject:
                options = _options(request, subject, asked, spot)
                if request.record:
                    _record(subject, options, as_json=request.as_json)
                    continue
                if request.sign:
                    check_can_be_signed(subject)
                    key = key or _open_key(request)
                done = replay(subject, options, _announcer(as_json=request.as_json))
                document = write_verdict(done, WorkFolder(options.work_dir).verdict_path)
                documents.append(document)
        except ApplianceError as error:
            if len(targets) == 1 and not (request.junit or request.summary):
                raise
            errors.append((str(target), error))
            typer.echo(f"error: {error}", err=True)
            continue
        replays.append(done)
        if not request.as_json:
            typer.echo(format_replay(done) + "\n")
    _write_reports(request, replays, [(label, str(error)) for label, error in errors])
    if documents:
        _give_out(request, documents[0] if len(targets) == 1 else documents)
    if key is not None:  # last: whatever becomes of the signature, the verdict is there
        errors += _sign(replays, documents, key)
    code = exit_code(replays, [error for _, error in errors])
    if code:
        raise typer.Exit(code)


def exit_code(replays: list[Replay], errors: list[ApplianceError]) -> int:
    """The worst verdict's code; an error's own code when nothing was contradicted."""
    found = {each.verdict.conclusion for each in replays}
    if errors and Conclusion.NOT_REPRODUCED not in found:
        return int(getattr(errors[0], "code", errors[0].exit_code))
    return next((EXIT_CODES[each] for each in _WORST_FIRST if each in found), 0)


def parse_level(text: str) -> Level | None:
    """R1 .. R5, or None for `auto`. Raises ReplayError."""
    if text.lower() == "auto":
        return None
    try:
        level = Level(text.upper())
    except ValueError:
        level = Level.R0
    if level is Level.R0:
        raise ReplayError(f"--level {text}: not a level that is replayed. Use auto or R1 to R5.")
    return level


def parse_passage(text: str | None) -> Passage | None:
    """``K:M``, M steps from step K on. Raises ReplayError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text)
    if found is None or int(found[2]) == 0:
        raise ReplayError(
            f"--spot-check {text}: not FIRST:COUNT. 0:3 takes the first three steps again, 1000:5"
            " five steps from the checkpoint at step 1000 on."
        )
    return Passage(first_step=int(found[1]), num_steps=int(found[2]))


def _options(
    request: ReplayRequest,
    subject: Subject | DamagedBundle,
    asked: Level | None,
    spot: Passage | None,
) -> ReplayOptions:
    name = f"{subject.name}-not-intact"
    if isinstance(subject, Subject):
        name = f"{subject.name}-{subject.identity.rpartition(':')[2][:12]}"
    folder = request.work_dir or Path("replays")
    if request.work_dir is None or request.target.resolve() != Path(subject.label).resolve():
        folder = folder / name
    return ReplayOptions(
        work_dir=folder.resolve(),
        scratch_dir=user_cache_dir() / "scratch",
        key_dir=request.places.key_dir,
        passphrase_file=request.passphrase_file,
        engine=request.engine,
        asked=asked,
        spot=spot,
        budget_s=request.budget_min * 60,
    )


def _record(subject: Subject | DamagedBundle, options: ReplayOptions, *, as_json: bool) -> None:
    if not isinstance(subject, Subject) or subject.kind != "manifest":
        raise ReplayError(
            f"{subject.label}: expectations are recorded beside a manifest, and this is a"
            f" {subject.kind}. Name a manifest or a folder of manifests."
        )
    path = record(subject, options, _announcer(as_json=as_json))
    typer.echo(f"Recorded: {path}", err=True)


def _open_key(request: ReplayRequest) -> SigningKey:
    """The key to sign with: what is wrong with it must not be found out after the long work."""
    return load_or_create_key(
        request.places.key_dir, passphrase=find_passphrase(request.passphrase_file)
    )


def _sign(
    replays: list[Replay], documents: list[dict[str, Any]], key: SigningKey
) -> list[tuple[str, ApplianceError]]:
    """Countersign every bundle with its verdict; what kept one from being written, by label.

    A verdict that is none to sign is no error: it has its own code.
    """
    errors: list[tuple[str, ApplianceError]] = []
    for done, document in zip(replays, documents, strict=True):
        try:
            typer.echo(f"Countersigned: {countersign(done, document, key)}", err=True)
        except ApplianceError as error:
            typer.echo(f"error: {error}", err=True)
            if not isinstance(error, ReplayError):
                errors.append((done.subject.label, error))
    return errors


def _give_out(request: ReplayRequest, value: object) -> None:
    """Write the verdict (a document, or a list of them) where it was asked for."""
    text = json.dumps(value, indent=2, sort_keys=True)
    if request.output is not None:
        write_atomic(request.output, text.encode("utf-8") + b"\n")
    if request.as_json:
        typer.echo(text)


def _write_reports(
    request: ReplayRequest, replays: list[Replay], errors: list[tuple[str, str]]
) -> None:
    if request.junit is not None:
        write_junit(request.junit, replays, errors)
    if request.summary is not None:
        write_atomic(request.summary, format_summary(replays, errors).encode("utf-8"))


def _announcer(*, as_json: bool) -> Callable[[str], None]:
    """Says on stderr what begins."""

    def announce(text: str) -> None:
        if not as_json:
            typer.echo(f"  {text}", err=True)

    return announce
