"""`appliance run`: from a manifest to a signed bundle.

Lock, then each stage that is not finished yet, then the bundle. Everything finished is kept, so a
run that was stopped anywhere goes on from there, and a run with nothing to do does nothing.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from appliance.bundle.keys import Passphrase, SigningKey, load_or_create_key, secret_places
from appliance.errors import ManifestError, StageFailedError
from appliance.files import set_aside, storage_errors, write_atomic
from appliance.manifest.lock import Lock
from appliance.manifest.model import EngineName, Manifest
from appliance.policy.presets import PRESETS
from appliance.stages.bundle import BundleResult, make_bundle
from appliance.stages.cache import StageCache
from appliance.stages.decide import Action, Decision, decide_stage, read_previous
from appliance.stages.declare import DECLARED_STAGE, declare_before_training
from appliance.stages.definition import Stage
from appliance.stages.engines import Engine, open_engine
from appliance.stages.execute import record_stage
from appliance.stages.expectations import check_stage_expectations, find_unmet_expectations
from appliance.stages.manifest import read_manifest
from appliance.stages.pins import dataset_root, places_for_stages
from appliance.stages.receipt import Receipt, read_receipt
from appliance.stages.registry import stages_for
from appliance.stages.resolve import resolve_lock
from appliance.stages.run_folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Where a run works; nothing here changes a result.

    ``cache_dir`` None switches the shared cache off. ``scratch_dir`` holds compiled programs and
    the like, ``facts_dir`` what images were found to hold; ``key_dir`` None is the user's own key
    folder, ``passphrase`` asks for the words an encrypted key there needs; ``passphrase_file``,
    where they may lie, is named only to be kept from stages. ``engine`` None is the manifest's.
    ``with_checkpoints`` puts the checkpoints into the bundle. With ``declares`` the claim is signed
    before training; without, the chain asks for no key, and no bundle is made.
    """

    run_dir: Path
    cache_dir: Path | None
    scratch_dir: Path
    key_dir: Path | None
    facts_dir: Path | None = None
    engine: EngineName | None = None
    passphrase: Passphrase | None = None
    passphrase_file: Path | None = None
    with_checkpoints: bool = False
    declares: bool = True

    @property
    def secrets(self) -> tuple[Path, ...]:
        """What no stage may be shown, of this run's key and of the user's own."""
        return secret_places(self.key_dir, self.passphrase_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a finished run made.

    ``ran`` lists the stages that had to work, ``unmet`` what the manifest expected in vain.
    """

    bundle: BundleResult
    ran: tuple[str, ...]
    reused: tuple[str, ...]
    unmet: tuple[str, ...]
    folder: RunFolder


def run_chain(
    manifest_path: Path, options: RunOptions, announce: Callable[[Decision], None]
) -> RunResult:
    """Run a manifest to its signed bundle.

    ``announce`` is called with each stage's decision before the stage starts.
    Raises any ApplianceError; KeyboardInterrupt on Ctrl-C. Finished stages are kept in every case.
    """
    manifest = choose_engine(read_manifest(manifest_path), options.engine)
    check_before_running(manifest)
    folder = RunFolder(options.run_dir.resolve())
    with open_chain(manifest, folder, options) as chain:
        lock = chain.lock
        for stage in stages_for(manifest):
            receipt = chain.bring_to_receipt(stage, announce)
            check_stage_expectations(
                manifest, stage.name, folder.stage_dir(stage.name, receipt.key)
            )
        bundle = make_bundle(
            manifest,
            lock,
            folder,
            chain.results,
            key_dir=options.key_dir,
            signer=chain.signer,
            with_checkpoints=options.with_checkpoints,
        )
    unmet = find_unmet_expectations(
        manifest, content_digest=bundle.content_digest, success_rate=bundle.success_rate
    )
    return RunResult(
        bundle=bundle,
        ran=tuple(chain.ran),
        reused=tuple(name for name in chain.results if name not in chain.ran),
        unmet=tuple(unmet),
        folder=folder,
    )


def check_before_running(manifest: Manifest) -> None:
    """Refuse before the long work what only the other rooms can judge. Raises ManifestError."""
    horizon = PRESETS[manifest.train.config].model.action_horizon
    if manifest.eval.action_steps > horizon:
        raise ManifestError(
            f"eval.action_steps: {manifest.eval.action_steps} is more than the {horizon} actions"
            f" {manifest.train.config} gives for a query. Use {horizon} or less."
        )


def choose_engine(manifest: Manifest, engine: EngineName | None) -> Manifest:
    """The manifest with another engine; it decides no result. Raises ManifestError."""
    if engine is None or engine == manifest.runtime.engine:
        return manifest
    if engine == "host" and manifest.runtime.gpus:
        raise ManifestError(
            f"--engine host: the manifest asks for runtime.gpus: {manifest.runtime.gpus}, and the"
            " host engine runs stages on the CPU. Use --engine docker."
        )
    return replace(manifest, runtime=replace(manifest.runtime, engine=engine))


def find_engine(manifest: Manifest, folder: RunFolder, options: RunOptions) -> Engine:
    """The engine of a run in ``folder``. Raises ManifestError, ImageError, RuntimeMissingError."""
    return open_engine(
        manifest,
        run_dir=folder.path,
        scratch_dir=options.scratch_dir,
        facts_dir=options.facts_dir or options.scratch_dir,
        secrets=options.secrets,
    )


def prepare_run_folder(
    folder: RunFolder, manifest: Manifest, lock: Lock, scratch_dir: Path
) -> None:
    """Write what stage processes read: manifest, lock, and where dataset and named files lie."""
    with storage_errors(manifest.source_path, "reading the manifest"):
        text = manifest.source_path.read_bytes()
    write_atomic(folder.manifest_path, text, doing="copying the manifest into the run folder")
    write_atomic(folder.lock_path, lock.to_bytes(), doing="writing the lock")
    state = folder.read_state()
    state["manifest_dir"] = str(manifest.base_dir.resolve())
    state["dataset_root"] = str(dataset_root(manifest))
    state["files"] = {key: str(place) for key, place in places_for_stages(manifest).items()}
    state["scratch_dir"] = str(scratch_dir)
    folder.write_state(state)


class StageExitError(StageFailedError):
    """A stage process ended with its own error text and exit code, which the run passes on."""

    def __init__(self, stage: str, code: int) -> None:
        super().__init__(
            f"The run stopped at stage {stage}. Finished stages are kept: run the same command"
            " again to go on from here."
        )
        self.code = code


@contextlib.contextmanager
def open_chain(manifest: Manifest, folder: RunFolder, options: RunOptions) -> Iterator[Chain]:
    """Hold the run folder, resolve the manifest, and write what stage processes read.

    Raises ImageError and RuntimeMissingError when the engine cannot be had, DatasetError when the
    data is not the pinned data, RunFolderBusyError, StorageError.
    """
    folder.create()
    with folder.claimed() as claim:
        folder.check_no_links()
        engine = find_engine(manifest, folder, options)
        lock = resolve_lock(manifest, engine.environment, options.secrets)
        prepare_run_folder(folder, manifest, lock, engine.scratch_dir)
        engine.prepare(folder)
        signer = functools.cache(
            lambda: load_or_create_key(options.key_dir, passphrase=options.passphrase)
        )
        yield Chain(
            manifest=manifest,
            lock=lock,
            folder=folder,
            options=options,
            engine=engine,
            claim=claim,
            signer=signer,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One run on its way: the receipts so far, and which stages had to work for them.

    ``claim`` is the descriptor that holds the run folder, ``signer`` gives the signing key.
    """

    manifest: Manifest
    lock: Lock
    folder: RunFolder
    options: RunOptions
    engine: Engine
    claim: int
    signer: Callable[[], SigningKey]
    results: dict[str, Receipt] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    @property
    def cache(self) -> StageCache:
        """The cache of this run."""
        return StageCache(self.options.cache_dir)

    def bring_to_receipt(self, stage: Stage, announce: Callable[[Decision], None]) -> Receipt:
        """Decide the next stage, say so, and finish it; its upstream stages are finished."""
        decision = self.decide(stage)
        announce(decision)
        if self.options.declares and decision.action is not Action.DONE:
            self.signer()  # a key that cannot be used must not be found out after the long work
        return self.finish(stage, decision)

    def decide(self, stage: Stage) -> Decision:
        """What will happen to the next stage, and why."""
        return decide_stage(
            stage,
            self.manifest,
            self.lock,
            {name: self.results[name].content_digest for name in stage.upstream},
            folder=self.folder,
            cache=self.cache,
            previous=read_previous(self.folder).get(stage.name),
        )

    def finish(self, stage: Stage, decision: Decision) -> Receipt:
        """Bring the stage to its receipt: take it as it is, from the cache, or run it."""
        if decision.key is None:
            raise StageFailedError(f"The stage {stage.name} has no key; this is a defect.")
        place = self.folder.stage_dir(stage.name, decision.key)
        if decision.damage:
            set_aside(place, "damaged")
        taken = decision.action is Action.DONE
        if decision.action is Action.CACHED:
            set_aside(place, "unfinished")
            taken = self.cache.take(stage.name, decision.key, place)
        if not taken:
            self.ran.append(stage.name)
            if self.options.declares and stage.name == DECLARED_STAGE:
                declare_before_training(place, self.manifest, self.lock, self.results, self.signer)
            self._run(stage)
            self.cache.put(stage.name, decision.key, place)
        receipt = read_receipt(place)
        if receipt is None or receipt.key != decision.key:
            raise StageFailedError(
                f"The stage {stage.name} ended without a receipt in {place}. Its environment or"
                " source changed while it ran; run the same command again."
            )
        record_stage(self.folder, stage.name, place)
        self.results[stage.name] = receipt
        return receipt

    def _run(self, stage: Stage) -> None:
        code = self.engine.run_stage(stage, self.folder, self.claim)
        if code:
            raise StageExitError(stage.name, code)
        self.folder.check_no_links()
