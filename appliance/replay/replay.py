"""`appliance replay`: compute again what can be, compare each stage, judge.

The order is that of cost: the bundle's bytes (R0), then data, plan, statistics and configuration
(R1), then training or some of its steps (R2), then the evaluation (R3, R4, R5). The first stage
that contradicts the original ends the replay: what follows would only follow from it.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.bundle.findings import Severity, VerifyReport
from appliance.errors import CheckpointError
from appliance.evaluation.statistics import Equivalence
from appliance.manifest.model import EngineName, Manifest
from appliance.replay.budget import OutOfTimeError
from appliance.replay.checkpoints import describe_other_checkpoint, describe_other_start
from appliance.replay.claim import ClaimResult
from appliance.replay.comparison import Setting, StageComparison
from appliance.replay.evidence import Evidence
from appliance.replay.facts import read_stage_facts, read_steps
from appliance.replay.inputs import replay_inputs
from appliance.replay.levels import Level, LevelStatus
from appliance.replay.reference import (
    Surroundings,
    describe_surroundings,
    surroundings_of,
    write_expectations,
)
from appliance.replay.subject import DamagedBundle, Subject
from appliance.replay.verdict import (
    Levels,
    Verdict,
    judge,
    not_tested,
)
from appliance.replay.work import (
    DEFAULT_BUDGET_S,
    Extent,
    Passage,
    WorkFolder,
    adopt_stage,
    choose_extent,
)
from appliance.stages.chain import Chain, StageExitError, choose_engine
from appliance.stages.decide import Decision
from appliance.stages.definition import CONTENT, Stage
from appliance.stages.environment import describe_platform
from appliance.stages.receipt import Receipt
from appliance.stages.registry import stages_for
from appliance.stages.spot_check import SpotCheck, ask_spot_check
from appliance.stages.spot_check import stage as spot_check_stage

Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """What is asked of a replay; ``asked`` None means whatever the budget allows.

    ``key_dir`` and ``passphrase_file`` are as in ``RunOptions``: no stage is shown them.
    """

    work_dir: Path
    scratch_dir: Path
    key_dir: Path | None = None
    passphrase_file: Path | None = None
    engine: EngineName | None = None
    asked: Level | None = None
    spot: Passage | None = None
    budget_s: float = DEFAULT_BUDGET_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A finished replay: its verdict and the evidence for it.

    ``here`` is this machine, ``there`` the original's; None where nothing is known of it.
    """

    subject: Subject | DamagedBundle
    verdict: Verdict
    stages: Mapping[str, StageComparison]
    seconds: Mapping[str, float]
    extent: Extent
    claim: ClaimResult | None
    equivalence: Equivalence | None
    here: Surroundings
    there: Surroundings | None
    same_platform: bool
    started_utc: str
    facts: Mapping[str, Any]
    work_dir: Path


def replay(subject: Subject | DamagedBundle, options: ReplayOptions, announce: Announce) -> Replay:
    """Replay ``subject`` and judge it; ``announce`` is told what begins.

    Raises ReplayError for what cannot be asked, the errors of a stage that cannot run here, and
    StorageError. What disagrees with the original is no error but the verdict.
    """
    if isinstance(subject, DamagedBundle):
        return _reject(subject, options)
    return _Run(subject, options, announce).run()


def _reject(subject: DamagedBundle, options: ReplayOptions) -> Replay:
    """The verdict on a bundle that is not what was signed: nothing is read, nothing computed."""
    started = datetime.datetime.now(datetime.UTC)
    work = WorkFolder(options.work_dir)
    work.claim(f"not intact: {subject.report.attestation_sha256}")
    reason = _describe_damage(subject.report)
    levels = {level: not_tested("the inputs are not those of the original") for level in Level}
    levels[Level.R0] = not_tested(reason)
    return Replay(
        subject=subject,
        verdict=judge(levels, asked=options.asked, invalid=reason),
        stages={},
        seconds={},
        extent=Extent(why=reason),
        claim=None,
        equivalence=None,
        here=Surroundings(packages={}, platform=describe_platform(), sources={}),
        there=None,
        same_platform=False,
        started_utc=started.isoformat(timespec="seconds"),
        facts={},
        work_dir=work.path,
    )


def _describe_damage(report: VerifyReport) -> str:
    first = next(each for each in report.findings if each.severity is Severity.ERROR)
    where = f"{first.path}: " if first.path else ""
    return f"the bundle is not intact: {where}{first.message}"


def record(subject: Subject, options: ReplayOptions, announce: Announce) -> Path:
    """Compute a golden manifest's facts and write them beside it; returns the file.

    Facts of stages that are not computed again, because the budget does not reach, are left out.
    """
    run = _Run(subject, options, announce, recording=True)
    run.run()
    known = {} if subject.reference is None else subject.reference.seconds
    facts = {"manifest": dict(subject.declared), **run.evidence.facts}
    seconds = dict(known)
    for name, took in run.evidence.seconds.items():
        seconds[name] = min(took, known.get(name, took))  # a busy machine says little
    return write_expectations(Path(subject.label), facts, run.here, seconds)


class _Run:
    """One replay on its way."""

    def __init__(
        self, subject: Subject, options: ReplayOptions, announce: Announce, recording: bool = False
    ) -> None:
        self.subject = subject
        self.options = options
        self.announce = announce
        self.reference = None if recording else subject.reference
        self.recording = recording
        self.here = describe_surroundings(subject.manifest)
        self.extent = choose_extent(
            *(subject, options.asked, options.spot, options.budget_s),
            engine=options.engine,
            same_platform=self._is_same_platform(),
        )
        self.work = WorkFolder(options.work_dir)
        self.evidence = Evidence(reference=self.reference, setting=self._setting())

    def run(self) -> Replay:
        """Everything, in the order of cost."""
        started = datetime.datetime.now(datetime.UTC)
        self.work.claim(self.subject.identity)
        manifest = self.work.write_manifest(self.subject.manifest)
        manifest = choose_engine(manifest, self.options.engine)
        self._note_signature()
        if self.evidence.invalid is None:
            replay_inputs(
                *(self.subject, manifest, self.work.inputs, self.evidence, self.announce),
                recording=self.recording,
            )
        repeats = self.extent.train or self.extent.spot or self.extent.evaluate
        if self.evidence.may_go_on() and repeats:
            self._check_checkpoints(manifest)
        if self.evidence.may_go_on() and repeats:
            self._replay_stages(manifest)
        levels = self._complete_levels()
        return Replay(
            subject=self.subject,
            verdict=judge(levels, asked=self.options.asked, invalid=self.evidence.invalid),
            stages=self.evidence.stages,
            seconds=self.evidence.seconds,
            extent=self.extent,
            claim=self.evidence.claim,
            equivalence=self.evidence.equivalence,
            here=self.here,
            there=None if self.reference is None else self.reference.surroundings,
            same_platform=self.evidence.setting.same_platform,
            started_utc=started.isoformat(timespec="seconds"),
            facts=self.evidence.facts,
            work_dir=self.work.path,
        )

    def _is_same_platform(self) -> bool:
        there = None if self.reference is None else self.reference.surroundings
        return there is not None and not there.changes(self.here)

    def _setting(self) -> Setting:
        return Setting(
            same_platform=self._is_same_platform(),
            half_precision=_dtype(self.subject.manifest) != "float32",
            trials_bind=self.reference is not None and self.reference.is_recorded,
            checkpoint_binds=self.extent.adopt,
        )

    def _note_signature(self) -> None:
        """R0: a bundle that is not intact does not come here."""
        report = self.subject.report
        if report is None:
            return
        origin = "a key you trust" if report.trusted else "a key you do not trust"
        reason = f"{report.checks.get('files', 0)} files are what was signed, by {origin}"
        self.evidence.set_level(Level.R0, LevelStatus.SHOWN, reason)

    def _replay_stages(self, manifest: Manifest) -> None:
        """R2 and above: the stages themselves, each in a process of its own."""
        options, limit = self.options, self.extent.limit
        if limit is not None:
            self.announce(f"at most {limit.text}, because {limit.why}")
        with self.work.open_chain(
            manifest,
            scratch_dir=options.scratch_dir,
            key_dir=options.key_dir,
            passphrase_file=options.passphrase_file,
        ) as chain:
            self.here = surroundings_of(chain.lock)  # with an engine, that of its image
            self.evidence.setting = self._setting()
            stages = {stage.name: stage for stage in stages_for(manifest)}
            for name in ("dataset", "plan", "norm_stats"):
                if name in stages and self.evidence.may_go_on():
                    self._bring(chain, stages[name])
            if self.extent.spot is not None and self.evidence.may_go_on():
                self._repeat_steps(chain, self.extent.spot)
            if self.extent.train and self.evidence.may_go_on():
                receipt = self._bring(chain, stages["train"])
                if receipt is not None:
                    self.evidence.seconds["train"] = _seconds(receipt.times)
                    content = chain.folder.stage_dir("train", receipt.key) / CONTENT
                    self.evidence.compare("train", read_stage_facts("train", content))
                    self._judge_training(None)
            if self.extent.adopt and self.evidence.may_go_on():
                assert self.subject.trained is not None, "choose_extent saw to it"
                adopt_stage(chain, stages["train"], self.subject.trained)
                chain.bring_to_receipt(stages["train"], self._announce)
            if self.extent.evaluate and self.evidence.may_go_on():
                given = self.extent.adopt
                evaluated = self._bring(chain, stages["evaluate"], on_given_checkpoint=given)
                if evaluated is not None:
                    self.evidence.seconds["evaluate"] = _seconds(evaluated.times)
                    content = chain.folder.stage_dir("evaluate", evaluated.key) / CONTENT
                    self.evidence.compare("evaluate", read_stage_facts("evaluate", content))
                    self._judge_evaluation()

    def _repeat_steps(self, chain: Chain, spot: Passage) -> None:
        """R2 in part: some steps, from the start or from the original's checkpoint."""
        manifest, trained = chain.manifest, self.subject.trained
        place = None
        if spot.first_step and trained is not None:
            place = trained.checkpoints(manifest)
        check = SpotCheck(first_step=spot.first_step, num_steps=spot.num_steps, checkpoints=place)
        ask_spot_check(chain.folder, check)
        stage = spot_check_stage(manifest, check)
        receipt = self._bring(chain, stage, on_given_checkpoint=place is not None)
        if receipt is None:
            return
        content = chain.folder.stage_dir(stage.name, receipt.key) / CONTENT
        self.evidence.seconds["spot_check"] = _seconds(receipt.times)
        self.evidence.compare("train", {"steps": read_steps(content)})
        self._judge_training(spot)

    def _bring(
        self, chain: Chain, stage: Stage, *, on_given_checkpoint: bool = False
    ) -> Receipt | None:
        """A stage's receipt; None, and why in the evidence, when there is no more time for it.

        None, and invalid inputs, when the checkpoint given to it is bad.
        """
        limit = self.extent.limit
        try:
            with contextlib.nullcontext() if limit is None else limit.kept():
                return chain.bring_to_receipt(stage, self._announce)
        except OutOfTimeError:
            assert limit is not None, "it set the alarm"
            self.evidence.missing = (
                f"{limit.text} ran out in stage {stage.name}, and {limit.why}; --budget gives more,"
                " --level sets none"
            )
            return None
        except StageExitError as error:
            if not on_given_checkpoint or error.code != CheckpointError.exit_code:
                raise
            assert self.subject.trained is not None, "it was given"
            self.evidence.invalid = (
                f"stage {stage.name} refused the checkpoint in {self.subject.trained.artifacts}: it"
                " cannot be read, or is not what the original recorded"
            )
            return None

    def _check_checkpoints(self, manifest: Manifest) -> None:
        """See that the checkpoints at hand are the original's, before anything rests on them."""
        trained, spot = self.subject.trained, self.extent.spot
        if trained is None:
            return  # the spot check says that it needs them
        reason, is_bundle = None, self.subject.report is not None
        if spot is not None and spot.first_step:
            reason = describe_other_start(
                trained, manifest, self.reference, spot.first_step, is_bundle=is_bundle
            )
        if reason is None and self.extent.adopt:
            reason = describe_other_checkpoint(
                trained, manifest, self.reference, is_bundle=is_bundle
            )
        self.evidence.invalid = reason

    def _judge_training(self, spot: Passage | None) -> None:
        total = self.subject.manifest.train.steps
        extent = f"all {total} steps" if spot is None else f"{spot.text} of {total}"
        self.evidence.levels[Level.R2] = self.evidence.judge(
            Level.R2, whole=spot is None, extent=extent
        )

    def _judge_evaluation(self) -> None:
        metrics = self.evidence.facts["evaluate"].get("metrics", {})
        successes, episodes = int(metrics["successes"]), int(metrics["episodes"])
        self.evidence.compare_counts(successes, episodes)
        self.evidence.levels[Level.R3] = self.evidence.judge(
            Level.R3, whole=True, extent=f"{episodes} episodes"
        )
        level = Level.R4 if self.extent.adopt else Level.R5
        self.evidence.judge_rate(level, self.subject.declared_claim, successes, episodes)

    def _complete_levels(self) -> Levels:
        levels = self.evidence.levels
        for level in Level:
            if level is Level.R0 and self.subject.report is None:
                continue
            levels.setdefault(level, not_tested(self._why_not(level)))
        return dict(sorted(levels.items()))

    def _why_not(self, level: Level) -> str:
        if self.evidence.invalid is not None:
            return "the inputs are not those of the original"
        if self.evidence.missing is not None:
            return self.evidence.missing
        if not self.evidence.may_go_on():
            return "an earlier stage came out differently"
        if self.reference is None and level in (Level.R1, Level.R2, Level.R3):
            return "there is nothing to compare with"
        return self.extent.why or "not asked for"

    def _announce(self, decision: Decision) -> None:
        self.announce(f"{decision.stage}: {decision.action.value}")


def _seconds(times: Mapping[str, Any]) -> float:
    return float(times.get("seconds", 0.0))


def _dtype(manifest: Manifest) -> str:
    from appliance.policy.presets import PRESETS

    return PRESETS[manifest.train.config].model.dtype
