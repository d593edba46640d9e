"""The evaluation, in order: find the trials, play each once, write the results.

Everything finished is in the journal (``observed/journal.jsonl``) before the next thing begins,
and is never done again, so that an evaluation killed at any moment and started once more ends with
the same ``content/``. Trials are independent: seed, instruction and noise are functions of the
trial alone.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance.digest import sha256_bytes
from appliance.errors import ApplianceError, PolicyRaisedError, PolicyServerError
from appliance.evaluation.findings import DECIDING_JOBS, Findings
from appliance.evaluation.journal import Journal
from appliance.evaluation.policy_queries import PolicyQueries
from appliance.evaluation.protocols import (
    PolicyProtocol,
    ProgressCallback,
    SimulatorFactory,
    SimulatorProtocol,
)
from appliance.evaluation.records import NOT_THE_ACTIONS, Episode, unplayed_episode
from appliance.evaluation.request import EvalRequest, check_request
from appliance.evaluation.results import (
    VIDEOS_NAME,
    read_finished,
    write_content,
    write_observed,
    write_trials,
)
from appliance.evaluation.rollout import Rollout
from appliance.evaluation.trials import TrialList, TrialSearch, pinned_trials
from appliance.evaluation.video import VideoRecorder
from appliance.evaluation.workers import (
    SimulatorFailedTwiceError,
    SimulatorWorker,
    work_through,
)
from appliance.files import remove_leftovers
from appliance.simulator.faults import UnplayableTrialError

JOURNAL_NAME = "journal.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What the steps of one evaluation share."""

    request: EvalRequest
    journal: Journal
    workers: tuple[SimulatorWorker, ...]
    queries: PolicyQueries
    videos_dir: Path
    on_progress: ProgressCallback
    progress_lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, text: str) -> None:
        with self.progress_lock:
            done = len(self.journal.of_kind("episode"))
            self.on_progress(done, self.request.episodes, text)


def evaluate(
    request: EvalRequest,
    policy: PolicyProtocol,
    simulator_factory: SimulatorFactory,
    *,
    content_dir: Path,
    observed_dir: Path,
    artifacts_dir: Path,
    on_progress: ProgressCallback,
) -> None:
    """Score ``policy`` on the trials of ``request`` and write the results.

    ``content_dir`` receives trials.json, episodes.jsonl and metrics.json (deterministic);
    ``observed_dir`` the journal, _metrics.json, _result.txt and videos/; ``artifacts_dir`` nothing.
    No simulator is started when every episode is already in the journal.

    Raises EvaluationError (request, trials, another evaluation's journal), SimulatorError (cannot
    be started, or nothing can be done with it), PolicyServerError (gone), StorageError; what was
    finished stays, and calling again goes on from there. An episode in which the policy was lost is
    not finished: it is played again. Whatever error or interruption ends it, nothing more is begun,
    and a ClosablePolicy is closed.
    """
    check_request(request, policy)
    for folder in (content_dir, observed_dir):
        remove_leftovers(folder)
    journal = Journal(observed_dir / JOURNAL_NAME, request.identity())
    workers = tuple(
        SimulatorWorker(number, simulator_factory, journal) for number in range(request.workers)
    )
    run = _Run(
        request=request,
        journal=journal,
        workers=workers,
        queries=PolicyQueries(policy, request.policy_seed, request.query_batch),
        videos_dir=observed_dir / VIDEOS_NAME,
        on_progress=on_progress,
    )
    with _closing(workers):
        trials = _find_trials(run)
        write_trials(content_dir, trials)
        try:
            _play_trials(run, trials)
        except PolicyRaisedError:  # nothing could be played: nothing of that is recorded
            raise
        except PolicyServerError as error:
            journal.append("policy_lost", {"error": str(error)})
            raise
    write_content(content_dir, request, trials, read_finished(journal))
    write_observed(observed_dir, request, journal)


@contextlib.contextmanager
def _closing(workers: tuple[SimulatorWorker, ...]) -> Iterator[None]:
    try:
        yield
    finally:
        for worker in workers:
            worker.close()


def _find_trials(run: _Run) -> TrialList:
    request = run.request
    if request.trials is not None:
        return pinned_trials(request.trials)
    search = TrialSearch(
        first_seed=request.first_seed,
        wanted=request.episodes,
        max_consecutive_skips=request.max_consecutive_skips,
    )
    for row in run.journal.of_kind("check"):
        search.record(row["seed"], row["reason"])
    first_seeds = range(request.first_seed, request.first_seed + DECIDING_JOBS)
    findings = Findings(run.journal, numbers=first_seeds, recorded=tuple(search.outcomes))

    def check(worker: SimulatorWorker, seed: int) -> None:
        search.record(seed, _check_seed(worker, seed, findings))
        run.report(f"expert check of seed {seed}; trials found: {search.solved_count}")

    work_through(run.workers, search.take_seed, check, wake=run.queries.close)
    trials = search.trial_list()
    assert trials is not None, "every seed handed out has an outcome"
    return trials


def _check_seed(worker: SimulatorWorker, seed: int, findings: Findings) -> str | None:
    """Why ``seed`` is skipped, None when the expert solved it; recorded before this returns."""
    began_s = time.monotonic()

    def play_expert(simulator: SimulatorProtocol) -> str:
        return simulator.expert_check(seed).reason

    failure = None
    try:
        told = worker.attempt(f"the expert check of seed {seed}", play_expert)
    except SimulatorFailedTwiceError as error:
        told, failure = f"raised: {error}", error
    # What was raised may hold an address or a path, so it is observed; its class decides.
    reason = "exception" if told.startswith("raised") else told or None
    seconds = round(time.monotonic() - began_s, 3)
    row = {"seed": seed, "reason": reason, "told": told, "seconds": seconds}
    findings.add(seed, "check", {**row, "worker": worker.number}, failure)
    return reason


def _play_trials(run: _Run, trials: TrialList) -> None:
    finished = read_finished(run.journal)
    open_trials = iter(
        [(number, seed) for number, seed in enumerate(trials.seeds) if number not in finished]
    )
    findings = Findings(run.journal, numbers=range(len(trials.seeds)), recorded=finished)

    def play(worker: SimulatorWorker, trial: tuple[int, int]) -> None:
        episode = _play_trial(run, worker, findings, *trial)
        run.report(f"seed {episode.seed}: {episode.outcome} after {episode.steps} steps")

    take_trial = functools.partial(next, open_trials, None)
    work_through(run.workers, take_trial, play, wake=run.queries.close)


def _play_trial(
    run: _Run, worker: SimulatorWorker, findings: Findings, number: int, seed: int
) -> Episode:
    """Play one trial; its video and its record are on disk before this returns."""
    began_s = time.monotonic()

    def play(simulator: SimulatorProtocol) -> tuple[Rollout, Episode, dict[str, object]]:
        with contextlib.ExitStack() as stack:
            recorder = stack.enter_context(VideoRecorder()) if run.request.video else None
            rollout = Rollout(simulator, run.queries, episode=number, seed=seed, recorder=recorder)
            episode = rollout.play(run.request.instruction_type, run.request.action_steps)
            observed: dict[str, object] = {**rollout.times.to_dict()}
            if recorder is not None and recorder.frame_count:
                observed |= _write_video(run.videos_dir, recorder, episode)
            return rollout, episode, observed

    failure: ApplianceError | None = None
    try:
        rollout, episode, observed = worker.attempt(f"trial {number} (seed {seed})", play)
        if rollout.error is not None:
            observed["detail"] = str(rollout.error)
            failure = rollout.error if rollout.error.failure_class in NOT_THE_ACTIONS else None
    except (SimulatorFailedTwiceError, UnplayableTrialError) as error:
        failure = error
        failure_class = getattr(error, "failure_class", "unplayable")
        episode = unplayed_episode(episode=number, seed=seed, failure_class=failure_class)
        observed = {"detail": str(error)}
    seconds = round(time.monotonic() - began_s, 3)
    row = {"record": episode.to_dict(), "seconds": seconds, "worker": worker.number}
    findings.add(number, "episode", {**row, **observed}, failure)
    return episode


def _write_video(folder: Path, recorder: VideoRecorder, episode: Episode) -> dict[str, object]:
    name = f"episode_{episode.episode}_seed{episode.seed}_{episode.outcome}.mp4"
    data = recorder.write(folder / name)
    return {
        "video": f"{VIDEOS_NAME}/{name}",
        "video_sha256": sha256_bytes(data),
        "video_frames": recorder.frame_count,
    }
