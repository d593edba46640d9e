"""The engines a run can use, behind one small interface: what a stage sees, and how it is run.

One class an engine. What an engine is given decides no result: the environment it offers is in the
lock, and the lock is in every stage's key.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from appliance.engine.container import StageContainer, remove_leftovers, run_stage_container
from appliance.engine.daemon import connected
from appliance.engine.gpus import VISIBLE_DEVICES
from appliance.engine.host import pinned_environment, run_stage_process
from appliance.engine.isolation import Exposure, Limits, cpu_limit, memory_limit
from appliance.engine.probe import probe_engine
from appliance.errors import ManifestError
from appliance.files import write_json
from appliance.manifest.model import Manifest, RuntimePart
from appliance.stages.definition import Stage
from appliance.stages.environment import Environment, OwnEnvironment
from appliance.stages.image_sbom import describe_image
from appliance.stages.images import ImageEnvironment, image_name, open_image
from appliance.stages.inventory import ROBOTWIN_ASSETS
from appliance.stages.pins import dataset_root, named_files
from appliance.stages.run_folder import SCRATCH, RunFolder


class Engine(Protocol):
    """Runs stages of one manifest."""

    @property
    def environment(self) -> Environment:
        """What stages will run in."""

    @property
    def scratch_dir(self) -> Path:
        """Where stages keep caches that never change a result."""

    def prepare(self, folder: RunFolder) -> None:
        """Write what is known of the environment into the run folder, for the bundle."""

    def run_stage(self, stage: Stage, folder: RunFolder, claim: int) -> int:
        """Run a stage to its end and return its exit code; ``claim`` holds the run folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEngine:
    """Stages are processes of this Python."""

    runtime: RuntimePart
    scratch_dir: Path

    @property
    def environment(self) -> Environment:
        """This very installation."""
        return OwnEnvironment()

    def prepare(self, folder: RunFolder) -> None:
        """Nothing: the lock says it all. What an image left here is not of this run."""
        if folder.environment_dir.is_dir():
            shutil.rmtree(folder.environment_dir)

    def run_stage(self, stage: Stage, folder: RunFolder, claim: int) -> int:
        """See :class:`Engine`."""
        pinned = _pinned(self.runtime, self.scratch_dir)
        return run_stage_process(stage.name, folder.path, pinned, keep_open=(claim,))


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerEngine:
    """Stages are containers of one image, shut in; see ``engine/isolation.py``.

    ``secrets`` are places no container may be shown (``bundle.keys.secret_places``).
    """

    manifest: Manifest
    opened: ImageEnvironment
    run_dir: Path
    secrets: tuple[Path, ...]

    @property
    def environment(self) -> Environment:
        """What is installed in the image, on this machine's processor."""
        return self.opened

    @property
    def scratch_dir(self) -> Path:
        """In the run folder, the only place a stage may write; by image, for compiled programs."""
        return self.run_dir / SCRATCH / self.opened.found.id.rpartition(":")[2][:12]

    def prepare(self, folder: RunFolder) -> None:
        """End what a killed run left; write what the image is; make the scratch folder."""
        with connected() as client:
            remove_leftovers(client, folder.path)
        folder.check_no_links()
        place = folder.environment_dir
        write_json(place / "image.json", dict(self.opened.image))
        write_json(place / "inventory.json", dict(self.opened.inventory.value))
        sbom = describe_image(self.opened.found, self.opened.inventory)
        write_json(place / "sbom.cdx.json", sbom)
        self.scratch_dir.mkdir(parents=True, exist_ok=True)

    def run_stage(self, stage: Stage, folder: RunFolder, claim: int) -> int:
        """See :class:`Engine`; the stage watches the lock ``claim`` holds (``engine/watch.py``)."""
        runtime = self.manifest.runtime
        machine = probe_engine()
        request = StageContainer(
            image_id=self.opened.found.id,
            exposure=Exposure(
                run_dir=folder.path,
                inputs=_input_paths(self.manifest, stage),
                hidden=self.secrets,
            ),
            limits=Limits(
                memory_bytes=memory_limit(runtime.memory_gib, machine.memory_bytes),
                cpus=cpu_limit(runtime.cpus, runtime.cpu_threads, machine.num_cpus),
                pids=runtime.pids,
                gpus=runtime.gpus,
            ),
            environment=container_environment(runtime, self.scratch_dir),
            claim=folder.claim_path,
        )
        return run_stage_container(stage.name, request, output=sys.stderr.buffer)


def open_engine(
    manifest: Manifest,
    *,
    run_dir: Path,
    scratch_dir: Path,
    facts_dir: Path,
    secrets: tuple[Path, ...],
) -> Engine:
    """The engine ``runtime.engine`` names; ``facts_dir`` keeps what images were found to hold.

    No container is shown anything of ``secrets``. Raises ManifestError, ImageError,
    RuntimeMissingError.
    """

    def host() -> Engine:
        return HostEngine(runtime=manifest.runtime, scratch_dir=scratch_dir)

    def container() -> Engine:
        runtime = manifest.runtime
        return ContainerEngine(
            manifest=manifest,
            opened=open_image(image_name(runtime), runtime.image_digest, facts_dir),
            run_dir=run_dir,
            secrets=secrets,
        )

    engines: Mapping[str, Callable[[], Engine]] = {"host": host, "docker": container}
    name = manifest.runtime.engine
    if name not in engines:
        raise ManifestError(
            f"runtime.engine: {name} is not available in this version. Use"
            f" {' or '.join(sorted(engines))}."
        )
    return engines[name]()


def container_environment(runtime: RuntimePart, scratch_dir: Path) -> dict[str, str]:
    """The variables of a stage's container: those of the host engine, and places it can write."""
    pinned = _pinned(runtime, scratch_dir)
    pinned.pop(VISIBLE_DEVICES, None)  # the engine hands out the devices themselves
    return {
        **pinned,
        "HOME": "/tmp",  # noqa: S108 (in the container)
        "XDG_CACHE_HOME": "/tmp/cache",  # noqa: S108
        # The image has no bytecode; without this every process would compile every import again.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(scratch_dir / "bytecode"),
    }


def _pinned(runtime: RuntimePart, scratch_dir: Path) -> dict[str, str]:
    return pinned_environment(
        cpu_threads=runtime.cpu_threads,
        cpu_max_isa=runtime.cpu_max_isa,
        gpus=runtime.gpus,
        scratch_dir=scratch_dir,
    )


def _input_paths(manifest: Manifest, stage: Stage) -> tuple[Path, ...]:
    """Everything ``stage`` may read of the host.

    Nothing of it is taken from the run folder, which the stages before it could write.
    """
    named = [path for path in named_files(manifest).values() if path != ROBOTWIN_ASSETS]
    return (dataset_root(manifest), *named, *stage.reads)
