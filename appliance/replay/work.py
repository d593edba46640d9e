"""How much of a run a replay repeats, and the folder in which it does so.

Nothing here touches the original. A replay that was stopped is gone on with by the next one of the
same target in the same folder; one that was finished is begun anew.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from appliance.bundle.assemble import collect_files
from appliance.digest import canonical_json
from appliance.engine.gpus import GpuMissingError, handed_out, read_gpus
from appliance.errors import ReplayError, RuntimeMissingError, StorageError
from appliance.files import copy_files, storage_errors, write_atomic, write_json
from appliance.manifest.model import EngineName, Manifest
from appliance.replay.budget import TimeLimit, describe_budget, describe_doubt
from appliance.replay.checkpoints import TrainedFiles
from appliance.replay.levels import Level
from appliance.replay.places import describe_absent
from appliance.replay.reading import read_object
from appliance.replay.subject import Subject
from appliance.stages.chain import Chain, RunOptions, open_chain
from appliance.stages.decide import build_key_parts
from appliance.stages.definition import ARTIFACTS, CONTENT, Stage
from appliance.stages.environment import describe_host
from appliance.stages.manifest import read_manifest
from appliance.stages.receipt import Receipt, read_receipt, seal_folder, stage_key
from appliance.stages.run_folder import RunFolder

STATE_FILE = "replay.json"
FORMAT = "plan-star-replay-v1"
DEFAULT_BUDGET_S = 300.0
DEFAULT_SPOT = (0, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A spot check's first step and number of steps."""

    first_step: int
    num_steps: int

    @property
    def text(self) -> str:
        """The steps, as a person counts them."""
        last = self.first_step + self.num_steps - 1
        return f"step {last}" if self.num_steps == 1 else f"steps {self.first_step} to {last}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What is repeated beyond R1: some steps, or all of training; evaluation, of which checkpoint.

    ``adopt``: the original's checkpoint is evaluated, without training again. ``why`` says why no
    more is repeated, for a person. ``limit`` is kept by the clock, None where none is.
    """

    spot: Passage | None = None
    train: bool = False
    evaluate: bool = False
    adopt: bool = False
    why: str = ""
    limit: TimeLimit | None = None


def choose_extent(
    subject: Subject,
    asked: Level | None,
    spot: Passage | None,
    budget_s: float,
    *,
    engine: EngineName | None = None,
    same_platform: bool = False,
) -> Extent:
    """What to repeat: what ``asked`` needs, or, when None, as much as the budget allows.

    ``engine`` is the one the user chose, None where the manifest's is meant; ``same_platform``:
    this is the original's. Raises ReplayError when what is asked for needs something that is not at
    hand or that the user has to choose, RuntimeMissingError when this machine cannot do it.
    """
    if asked is Level.R0 or asked is Level.R1:
        return Extent(why=f"{asked} was asked for")
    unnamed = describe_unnamed(subject, engine) or describe_absent(subject.manifest)
    if unnamed is not None and (asked is not None or spot is not None):
        raise ReplayError(
            f"{subject.label}: what is asked for trains or evaluates, but {unnamed}. Or ask for R1."
        )
    if unnamed is not None:
        return Extent(why=unnamed)
    lacking = describe_lack(subject.manifest, engine)
    if lacking is not None and (asked is not None or spot is not None):
        raise RuntimeMissingError(
            f"{subject.label}: what is asked for trains or evaluates, but {lacking}. Use the full"
            " installation (README), or ask for R1."
        )
    if lacking is not None:
        return Extent(why=lacking)
    if asked is not None:
        return _choose_asked(subject, asked, spot)
    if spot is not None:
        return Extent(spot=spot, why="a spot check was asked for")
    doubt = describe_doubt(subject, same_platform=same_platform)
    limit = None if doubt is None else TimeLimit(seconds=budget_s, why=doubt)
    return replace(_choose_affordable(subject, budget_s, doubt), limit=limit)


def _choose_asked(subject: Subject, asked: Level, spot: Passage | None) -> Extent:
    if asked is Level.R2:
        return Extent(spot=spot) if spot else Extent(train=True)
    if asked is Level.R3 or asked is Level.R5:
        adopt = asked is Level.R3 and subject.trained is not None
        return Extent(spot=spot if adopt else None, train=not adopt, evaluate=True, adopt=adopt)
    if subject.trained is None:
        raise ReplayError(
            f"{subject.label}: {asked} evaluates the original's checkpoint, which is not at hand."
            " Name the folder of the original run with --artifacts, or ask for R5, which trains"
            " again."
        )
    return Extent(spot=spot, evaluate=True, adopt=True)


def describe_unnamed(subject: Subject, engine: EngineName | None) -> str | None:
    """What of others' code would have to run that only the user may name; None when nothing.

    Training and evaluation are locked together, and the lock starts a checkout's interpreter.
    """
    if subject.lacks_checkout:
        return (
            "it was evaluated in a RoboTwin checkout, and where one lies is not taken from a"
            " bundle: name it with --checkout and its interpreter with --checkout-python"
        )
    report, named = subject.report, subject.manifest.runtime
    if report is None or report.trusted or engine is not None or named.engine == "host":
        return None
    return (
        f"its signer is not one you trust, and it asks for the engine {named.engine} with an image"
        " of its choice: choose with --engine, or verify it with the signer's key (--key)"
    )


def describe_lack(manifest: Manifest, engine: EngineName | None = None) -> str | None:
    """What this machine lacks for the stages that train, which `auto` then leaves out.

    ``engine`` is the one the user chose, None where the manifest's is meant.
    """
    if manifest.runtime.gpus:
        try:
            handed_out(read_gpus(), manifest.runtime.gpus)
        except GpuMissingError as error:
            return f"the original had {manifest.runtime.gpus} GPU, and here: {error.found}"
    if (engine or manifest.runtime.engine) != "host":
        return None  # the engine brings what the stages need, or says what it lacks
    if importlib.util.find_spec("jax") is None:
        return "jax is not installed here"
    return None


def _choose_affordable(subject: Subject, budget_s: float, doubt: str | None) -> Extent:
    """What the recorded times promise; in ``doubt`` of them some steps first."""
    steps = subject.manifest.train.steps
    few = Passage(first_step=DEFAULT_SPOT[0], num_steps=min(DEFAULT_SPOT[1], steps))
    passage = few if steps else None
    seconds = {} if subject.reference is None else subject.reference.seconds
    train, evaluate = seconds.get("train"), seconds.get("evaluate")
    if train is None or evaluate is None:
        return Extent(spot=passage, why="how long the original took is not known")
    if train + evaluate <= budget_s:
        return Extent(spot=passage if doubt else None, train=True, evaluate=True)
    budget = describe_budget(budget_s)
    if subject.trained is not None and evaluate <= budget_s:
        why = f"the original trained for {train / 60:.1f} minutes, more than {budget}"
        return Extent(spot=passage, evaluate=True, adopt=True, why=why)
    total = (train + evaluate) / 60
    return Extent(
        spot=passage,
        why=f"the original trained and evaluated for {total:.1f} minutes, more than {budget}",
    )


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """The folder of one replay: ``inputs/`` (R1), ``run/`` (a run folder), the verdict."""

    path: Path

    @property
    def inputs(self) -> Path:
        """Where data, plan and statistics are computed again."""
        return self.path / "inputs"

    @property
    def run(self) -> RunFolder:
        """Where stages are run again."""
        return RunFolder(self.path / "run")

    @property
    def verdict_path(self) -> Path:
        """The verdict; there when the replay is finished."""
        return self.path / "verdict.json"

    def claim(self, subject: str) -> None:
        """Make the folder, or take up a stopped replay of the same ``subject`` in it.

        Raises StorageError when it holds something else.
        """
        identity = {"format": FORMAT, "subject": subject}
        state = read_object(self.path / STATE_FILE)
        if self.path.is_dir() and any(self.path.iterdir()) and state.get("format") != FORMAT:
            raise StorageError(
                f"{self.path}: holds something else than a replay. Choose another folder with"
                " --work-dir."
            )
        if state != identity or self.verdict_path.exists():
            self._clear()
        write_json(self.path / STATE_FILE, identity)

    def write_manifest(self, manifest: Manifest) -> Manifest:
        """Write what is replayed into the folder; the manifest as it is read there."""
        path = self.path / "manifest.yaml"
        write_atomic(path, canonical_json(manifest.as_dict()) + b"\n")
        return read_manifest(path)

    def _clear(self) -> None:
        with storage_errors(self.path, "clearing an earlier replay"):
            for folder in (self.inputs, self.run.path):
                if folder.is_dir():
                    shutil.rmtree(folder)
            self.verdict_path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def open_chain(
        self,
        manifest: Manifest,
        *,
        scratch_dir: Path,
        key_dir: Path | None,
        passphrase_file: Path | None,
    ) -> Iterator[Chain]:
        """The chain of stages in this folder; no result is taken from a cache, nothing is signed.

        ``key_dir`` and ``passphrase_file`` are named so that no stage is shown them.
        """
        options = RunOptions(
            run_dir=self.run.path,
            cache_dir=None,
            scratch_dir=scratch_dir,
            key_dir=key_dir,
            passphrase_file=passphrase_file,
            declares=False,
        )
        with open_chain(manifest, self.run, options) as chain:
            yield chain


def adopt_stage(chain: Chain, stage: Stage, trained: TrainedFiles) -> Receipt:
    """Let the original's result stand as the result of ``stage`` in the chain's folder.

    Its files are copied and hashed; the receipt says what they are, so a later stage that reads
    them checks them like any others.
    """
    upstream = {name: chain.results[name].content_digest for name in stage.upstream}
    key_parts = build_key_parts(stage, chain.manifest, chain.lock, upstream)
    key = stage_key(key_parts)
    place = chain.folder.stage_dir(stage.name, key)
    found = read_receipt(place)
    if found is not None and found.key == key:
        return found
    with storage_errors(place, "taking over the original's checkpoint"):
        if place.is_dir():
            shutil.rmtree(place)
    files = collect_files(trained.content, CONTENT) | collect_files(trained.artifacts, ARTIFACTS)
    copy_files(files, place)
    return seal_folder(
        place,
        stage=stage.name,
        key_parts=key_parts,
        times=_NO_TIMES,
        host=describe_host(chain.manifest.runtime.gpus),
    )


_NO_TIMES: Mapping[str, Any] = {"started_utc": "1970-01-01T00:00:00+00:00", "seconds": 0.0}
