"""`evaluate`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from appliance.cli.manifests import print_warnings
from appliance.cli.policies import (
    LEARNING,
    WIRE,
    PolicyPlace,
    enter_environment,
    require_libraries,
    runtime_with,
)
from appliance.cli.progress import show_progress
from appliance.files import read_json, storage_errors, write_json
from appliance.manifest.model import Manifest
from appliance.policy.presets import PRESETS, TrainConfig
from appliance.stages.definition import ARTIFACTS, CONTENT, OBSERVED
from appliance.stages.environment import (
    describe_gpus_at_hand,
    describe_host,
    describe_platform,
    source_digests,
)
from appliance.stages.evaluate import STAGE, make_request
from appliance.stages.manifest import read_manifest
from appliance.stages.pins import named_files, places_for_stages
from appliance.stages.run_folder import RunFolder
from appliance.stages.simulators import ChosenSimulator, cameras_of, choose_simulator, picture_size
from appliance.stages.trained_policy import (
    PARAMS,
    PolicyFiles,
    find_in_checkpoint,
    open_policy,
)

if TYPE_CHECKING:
    from appliance.evaluation.protocols import PolicyProtocol
    from appliance.serving.client import RemotePolicy

ENVIRONMENT_NAME = "environment.json"
CONNECTIONS_NAME = "connections.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlace:
    """A policy server's address and how long to wait for it."""

    url: str
    connect_timeout_s: float
    answer_timeout_s: float


def evaluate_policy(
    manifest_path: Path | None,
    output: Path,
    place: PolicyPlace,
    server: ServerPlace | None,
    *,
    workers: int | None,
    gpus: int | None,
    as_json: bool,
) -> None:
    """Evaluate into ``output``, going on with what is there. Raises any ApplianceError."""
    place.check_alone(("--server", None if server is None else server.url))
    manifest = _read(manifest_path, place)
    if gpus is None and server is not None and manifest.eval.simulator == "robotwin":
        gpus = 0  # the policy's are the server's, and the stand-in uses none
    manifest = replace(manifest, runtime=runtime_with(manifest, None, gpus))
    require_libraries("Evaluating", "av", *(LEARNING if server is None else WIRE))
    enter_environment(manifest.runtime)
    print_warnings(manifest)
    from appliance.evaluation.driver import evaluate

    folder = RunFolder(output.resolve())
    folder.create()
    parts = {name: folder.path / name for name in (CONTENT, OBSERVED, ARTIFACTS)}
    with folder.claimed(), _opened(manifest, place, server, parts[OBSERVED]) as asked:
        for part in (parts[CONTENT], parts[OBSERVED]):
            with storage_errors(part, "making the output folder"):
                part.mkdir(exist_ok=True)
        default_workers = min(manifest.runtime.cpu_threads, manifest.eval.episodes)
        request = make_request(
            manifest, asked.simulator, asked.identity, workers=workers or default_workers
        )
        write_json(parts[OBSERVED] / ENVIRONMENT_NAME, _describe_environment(manifest, asked))
        with show_progress("evaluate") as progress:
            evaluate(
                request,
                asked.policy,
                asked.simulator.factory(parts[OBSERVED]),
                content_dir=parts[CONTENT],
                observed_dir=parts[OBSERVED],
                artifacts_dir=parts[ARTIFACTS],
                on_progress=progress,
            )
    metrics = read_json(parts[CONTENT] / "metrics.json")
    if as_json:
        value = {"output": str(folder.path), "metrics": metrics}
        typer.echo(json.dumps(value, indent=2, sort_keys=True))
    else:
        typer.echo(describe_metrics(metrics, output))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The policy to evaluate, what the records call it, and the simulator it acts in."""

    policy: PolicyProtocol
    identity: Mapping[str, Any]
    simulator: ChosenSimulator
    source: str


def _read(manifest_path: Path | None, place: PolicyPlace) -> Manifest:
    if manifest_path is None:
        if place.run_dir is None:
            raise typer.BadParameter(
                "name the MANIFEST whose eval part says what is evaluated (only a run folder"
                " brings its own)"
            )
        manifest_path = RunFolder(place.run_dir).manifest_path
    return read_manifest(manifest_path)


@contextlib.contextmanager
def _opened(
    manifest: Manifest, place: PolicyPlace, server: ServerPlace | None, observed: Path
) -> Iterator[_Asked]:
    if server is None:
        yield _open_local(manifest, place)
        return
    with _connect(manifest, server) as remote:
        asked = _Asked(
            policy=remote,
            identity=remote.identity(),
            simulator=_simulator_for(manifest, remote),
            source=server.url,
        )
        try:
            yield asked
        finally:
            _record_connection(observed, remote)


def _record_connection(observed: Path, remote: RemotePolicy) -> None:
    """Note which server was asked in this session, and how often it had to be found again."""
    path = observed / CONNECTIONS_NAME
    sessions = read_json(path) if path.is_file() else []
    write_json(path, [*sessions, {"url": remote.url, "reconnects": remote.reconnects}])


def find_policy(manifest: Manifest, place: PolicyPlace) -> PolicyFiles:
    """The files of the policy at ``place``: which of several checkpoints, ``eval.checkpoint`` says.

    ``--step`` overrules it; the folder of one checkpoint is that one. Raises CheckpointError.
    """
    from appliance.stages.run_policy import find_in_run

    step = manifest.eval.checkpoint if place.step is None else place.step
    if place.run_dir is not None:
        return find_in_run(place.run_dir.resolve(), step)[0]
    assert place.checkpoint is not None
    named = manifest.train.tokenizer
    tokenizer = place.tokenizer
    if tokenizer is None and named is not None:
        tokenizer = named_files(manifest)["train.tokenizer.path"]
    return find_in_checkpoint(
        place.checkpoint.resolve(),
        PRESETS[manifest.train.config],
        which=place.step if (place.checkpoint / PARAMS).is_dir() else step,
        norm_stats=place.norm_stats,
        tokenizer=tokenizer,
        tokenizer_sha256=None if place.tokenizer or named is None else named.sha256,
    )


def _open_local(manifest: Manifest, place: PolicyPlace) -> _Asked:
    files = find_policy(manifest, place)
    opened = open_policy(files, sampling_steps=manifest.eval.sampling_steps)
    return _Asked(
        policy=opened.policy,
        identity=opened.identity,
        simulator=_choose(manifest, opened.config),
        source=str(files.params_dir),
    )


def _connect(manifest: Manifest, server: ServerPlace) -> RemotePolicy:
    from appliance.serving.client import RemotePolicy

    return RemotePolicy(
        server.url,
        action_horizon=manifest.eval.action_steps,
        connect_timeout_s=server.connect_timeout_s,
        answer_timeout_s=server.answer_timeout_s,
    )


def _choose(manifest: Manifest, config: TrainConfig) -> ChosenSimulator:
    return choose_simulator(
        manifest,
        files=places_for_stages(manifest),
        cameras=cameras_of(config),
        image_size=picture_size(*config.model.image_size),
    )


def _simulator_for(manifest: Manifest, remote: RemotePolicy) -> ChosenSimulator:
    """With the cameras a server of ours announces; for another's, the manifest's preset's."""
    if remote.description is None:
        return _choose(manifest, PRESETS[manifest.train.config])
    return choose_simulator(
        manifest,
        files=places_for_stages(manifest),
        cameras=remote.description.cameras,
        image_size=picture_size(*remote.description.image_size),
    )


def _describe_environment(manifest: Manifest, asked: _Asked) -> dict[str, Any]:
    from appliance.stages.environment import package_versions

    gpus = manifest.runtime.gpus
    return {
        "policy_source": asked.source,
        "platform": {**describe_platform(), **describe_gpus_at_hand(gpus)},
        "host": describe_host(gpus),
        "packages": package_versions((*STAGE.packages, "websockets", "msgpack")),
        "source": source_digests((*STAGE.rooms, "serving")),
        "runtime": manifest.as_dict()["runtime"],
    }


def describe_metrics(metrics: Mapping[str, Any], output: Path) -> str:
    """The score in a few lines, with what must be said beside it."""
    interval = metrics["wilson_interval"]
    failures = ", ".join(f"{count} {name}" for name, count in metrics["failure_counts"].items())
    score = (
        f"{metrics['task']}: {metrics['successes']} of {metrics['episodes']} episodes"
        f" ({100 * metrics['success_rate']:.1f} %, Wilson 95 % interval"
        f" {100 * interval['low']:.1f} to {100 * interval['high']:.1f} %; {failures})"
    )
    lines = [score]
    policy = metrics["policy"]
    if {"config", "checkpoint"} <= policy.keys():
        lines.append(f"Policy: {policy['config']}, checkpoint {policy['checkpoint']}")
    if metrics["note"]:
        lines.append(str(metrics["note"]))
    if policy.get("noise", "controlled") != "controlled":
        lines.append("The server draws the policy's noise: another run may come out differently.")
    return "\n".join([*lines, f"Records: {output}"])
