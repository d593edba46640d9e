"""`serve`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from appliance.cli.policies import (
    LEARNING,
    WIRE,
    PolicyPlace,
    enter_environment,
    require_libraries,
    runtime_with,
)
from appliance.errors import ManifestError
from appliance.manifest.model import Manifest
from appliance.manifest.schema import default_values
from appliance.policy.presets import PRESETS, TrainConfig
from appliance.stages.trained_policy import OpenedPolicy, PolicyFiles, open_policy

if TYPE_CHECKING:
    from appliance.serving.messages import ServerDescription


def serve(
    place: PolicyPlace,
    *,
    config: str | None,
    host: str,
    port: int,
    sampling_steps: int | None,
    seed: int,
    default_prompt: str | None,
    cpu_threads: int | None,
    gpus: int | None,
    max_message_mib: int,
    as_json: bool,
) -> None:
    """Serve a policy until told to stop. Raises any ApplianceError."""
    place.check_alone()
    files, manifest = find_policy(place, config)
    if sampling_steps is None:
        part = default_values(("eval",)) if manifest is None else manifest.as_dict()["eval"]
        sampling_steps = int(part["sampling_steps"])
    require_libraries("Serving a policy", *LEARNING, *WIRE)
    from appliance.serving.server import check_address, serve_policy

    check_address(host, port)
    enter_environment(runtime_with(manifest, cpu_threads, gpus))
    opened = open_policy(files, sampling_steps=sampling_steps)
    from appliance.serving.service import PolicyService

    service = PolicyService(
        policy=opened.policy,
        description=describe(opened),
        seed=seed,
        default_prompt=default_prompt,
    )
    service.warm_up()

    def announce(host: str, port: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        url = f"ws://{shown}:{port}"
        if as_json:
            typer.echo(json.dumps({"url": url, "policy": dict(opened.identity)}, sort_keys=True))
        else:
            typer.echo(
                f"Serving {files.config.name}, checkpoint {files.step}, on {url}"
                f" (health: http://{shown}:{port}/healthz). Ctrl-C stops it."
            )

    serve_policy(
        service,
        host=host,
        port=port,
        on_ready=announce,
        max_message_bytes=max_message_mib * 2**20,
    )
    typer.echo("Stopped.", err=True)


def find_policy(place: PolicyPlace, config: str | None) -> tuple[PolicyFiles, Manifest | None]:
    """The policy's files, and the manifest of the run that trained it, if a run did."""
    from appliance.stages.run_policy import find_in_run
    from appliance.stages.trained_policy import find_in_checkpoint

    if place.run_dir is not None:
        if config is not None:
            raise typer.BadParameter("--config goes with --checkpoint; a run folder names its own")
        return find_in_run(place.run_dir.resolve(), place.step)
    assert place.checkpoint is not None
    if config is None:
        raise typer.BadParameter(
            f"--checkpoint needs --config: one of {', '.join(sorted(PRESETS))}"
        )
    return (
        find_in_checkpoint(
            place.checkpoint.resolve(),
            find_config(config),
            which=place.step,
            norm_stats=_absolute(place.norm_stats),
            tokenizer=_absolute(place.tokenizer),
        ),
        None,
    )


def find_config(name: str) -> TrainConfig:
    """The preset called ``name``. Raises ManifestError naming those there are."""
    if name not in PRESETS:
        raise ManifestError(
            f"--config: {name!r} is no configuration. There are: {', '.join(sorted(PRESETS))}."
        )
    return PRESETS[name]


def describe(opened: OpenedPolicy) -> ServerDescription:
    """What the server says of the policy to whoever connects."""
    from appliance.serving.messages import ServerDescription

    return ServerDescription(
        noise_shape=opened.policy.noise_shape,
        cameras=tuple(camera for camera, _ in opened.config.cameras),
        image_size=opened.config.model.image_size,
        policy=opened.identity,
    )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()
