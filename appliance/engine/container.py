"""The container engine: a stage is a container of a pinned image, shut in and watched.

The same contract as the host engine: ``appliance stage NAME --run-dir D`` runs to its end, its
progress and error text reach the user as they come, and its exit code is returned. A container
whose run died is removed by the next run; a stage notices by itself too (``watch_claim``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from appliance.digest import sha256_bytes
from appliance.engine.daemon import connected, daemon_errors, explain
from appliance.engine.isolation import (
    READER_LABEL,
    RUN_LABEL,
    STAGE_LABEL,
    Exposure,
    Limits,
    container_settings,
    container_user,
    reader_settings,
)
from appliance.engine.watch import CLAIM
from appliance.errors import (
    ImageError,
    OutOfMemoryError,
    RuntimeMissingError,
    StageFailedError,
)

if TYPE_CHECKING:
    from docker import DockerClient

PYTHON = "/opt/appliance/bin/python"
_STOP_TIMEOUT_S = 20
_REMOVE_TRIES = 3
_READER_LIMIT_S = 1800  # hashing an image with all assets takes minutes on a slow disk
_READER_LEFT_AFTER_S = 4 * _READER_LIMIT_S
_READER_POLL_S = 0.2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContainer:
    """How one stage's container is started; ``claim`` is the file the run holds a lock on."""

    image_id: str
    exposure: Exposure
    limits: Limits
    environment: Mapping[str, str]
    claim: Path


def run_stage_container(stage: str, request: StageContainer, *, output: BinaryIO) -> int:
    """Run a stage in a container to its end and return its exit code; what it says goes to output.

    Raises OutOfMemoryError, StageFailedError when it was killed or the daemon went away,
    RuntimeMissingError when it cannot be started, KeyboardInterrupt when it was interrupted.
    """
    run_dir = request.exposure.run_dir
    verbose = ["--verbose"] if logging.getLogger().isEnabledFor(logging.INFO) else []
    command = ["-m", "appliance", *verbose, "stage", stage, "--run-dir", str(run_dir)]
    code, state = run_python(stage, command, request, output=output)
    if state.get("OOMKilled") and not code:
        logger.warning(
            "stage %s: a process in its container was ended for want of memory (%s), and the stage"
            " went on without it; it finished",
            stage,
            _gib(request.limits.memory_bytes),
        )
    elif state.get("OOMKilled"):
        raise OutOfMemoryError(
            f"The stage {stage} needed more memory than the {_gib(request.limits.memory_bytes)} its"
            " container may use. Raise runtime.memory_gib, or lower train.batch_size or"
            f" runtime.cpu_threads. What was finished is kept in {run_dir}."
        )
    if code == 130:
        raise KeyboardInterrupt
    if code > 128:
        raise StageFailedError(
            f"The stage {stage} was ended by {_signal_name(code - 128)} from outside; its container"
            f" had memory left. What was finished is kept in {run_dir}: run the same command again"
            " to continue."
        )
    return code


def run_python(
    stage: str, arguments: Sequence[str], request: StageContainer, *, output: BinaryIO
) -> tuple[int, Mapping[str, Any]]:
    """Run the image's Python with ``arguments``, shut in as a stage is.

    Its exit code and the daemon's last word on the container. Containers a killed run of the same
    folder left are removed first. Raises as ``run_stage_container`` does.
    """
    with connected() as client:
        remove_leftovers(client, request.exposure.run_dir)
        with _container(client, stage, arguments, request) as container_id:
            return _follow(client, container_id, output, stage, request.image_id)


def read_from_image(image_id: str, arguments: Sequence[str]) -> bytes:
    """What ``python ARGUMENTS`` prints in a fresh container that sees nothing of the host.

    Raises StageFailedError with its error text when it fails, ImageError without such a python or
    when it does not end in half an hour.
    """
    settings = reader_settings()
    with (
        connected() as client,
        daemon_errors("reading what is installed in the image"),
        reader(
            client,
            image_id,
            command=list(arguments),
            entrypoint=[PYTHON],
            host_config=client.api.create_host_config(**settings["host"]),
            **settings["create"],
        ) as container_id,
    ):
        _start(client, container_id, image_id)
        code = _wait_for_reader(client, container_id, image_id)
        said = client.api.logs(container_id, stdout=True, stderr=False)
        errors = client.api.logs(container_id, stdout=False, stderr=True)
    if code:
        raise StageFailedError(
            f"The image {image_id} does not say what is installed in it:"
            f" {errors.decode('utf-8', 'replace').strip()[-300:] or f'exit code {code}'}. Build it"
            " again with `appliance image build`."
        )
    return bytes(said)


@contextlib.contextmanager
def reader(client: DockerClient, image_id: str, **settings: Any) -> Iterator[str]:
    """A container an image is read by (``create_container``), removed at the end in any case.

    One that a killed call left is removed by a later call. Raises what the SDK does.
    """
    _remove_left_readers(client)
    created = client.api.create_container(image_id, labels={READER_LABEL: ""}, **settings)
    try:
        yield created["Id"]
    finally:
        _remove(client, created["Id"])


def _wait_for_reader(client: DockerClient, container_id: str, image_id: str) -> int:
    """Its exit code. Raises ImageError when there is none in time."""
    deadline = time.monotonic() + _READER_LIMIT_S
    while (state := client.api.inspect_container(container_id)["State"]).get("Running"):
        if time.monotonic() > deadline:
            raise ImageError(
                f"The image {image_id} has not said within {_READER_LIMIT_S} s what is installed in"
                " it. If the machine is not just slow, the image is none of this project: name one"
                " in runtime.image, or build one with `appliance image build`."
            )
        time.sleep(_READER_POLL_S)
    return int(state["ExitCode"])


def _remove_left_readers(client: DockerClient) -> None:
    """Remove readers older than any call takes: another one's, in use, is not."""
    oldest = time.time() - _READER_LEFT_AFTER_S
    for left in client.api.containers(all=True, filters={"label": READER_LABEL}):
        if left["Created"] < oldest:
            logger.info("removing the container %s that read an image", left["Id"][:12])
            _remove(client, left["Id"])


def run_label(run_dir: Path) -> str:
    """What the containers of one run folder are labelled with."""
    return sha256_bytes(str(run_dir.resolve()).encode())[:32]


def remove_leftovers(client: DockerClient, run_dir: Path) -> None:
    """Remove containers a killed run of this folder left, and old ones that read an image.

    The caller holds the run folder.
    """
    wanted = {"label": f"{RUN_LABEL}={run_label(run_dir)}"}
    with daemon_errors("looking for containers a killed run left"):
        for left in client.api.containers(all=True, filters=wanted):
            logger.info("removing the container %s a killed run left", left["Id"][:12])
            _remove(client, left["Id"])
        _remove_left_readers(client)


@contextlib.contextmanager
def _container(
    client: DockerClient, stage: str, command: Sequence[str], request: StageContainer
) -> Iterator[str]:
    """A created container, removed at the end in any case."""
    labels = {RUN_LABEL: run_label(request.exposure.run_dir), STAGE_LABEL: stage}
    terminal = sys.stderr.isatty()
    environment = {**request.environment, CLAIM: str(request.claim), **_terminal(terminal)}
    with daemon_errors("telling what it is"):
        security_options = client.info().get("SecurityOptions") or ()
    settings = container_settings(
        request.exposure,
        request.limits,
        environment,
        labels,
        user=container_user(security_options),
    )
    with daemon_errors(f"making the container of stage {stage}"):
        created = client.api.create_container(
            request.image_id,
            command=list(command),
            entrypoint=[PYTHON],
            tty=terminal,
            host_config=_host_config(client, settings["host"]),
            **settings["create"],
        )
    try:
        yield created["Id"]
    finally:
        _remove(client, created["Id"])


def _host_config(client: DockerClient, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The SDK's form of the settings; GPU requests go in as they are."""
    plain = {name: value for name, value in settings.items() if name != "device_requests"}
    config: dict[str, Any] = client.api.create_host_config(**plain)
    if "device_requests" in settings:
        config["DeviceRequests"] = settings["device_requests"]
    return config


def _follow(
    client: DockerClient, container_id: str, output: BinaryIO, stage: str, image_id: str
) -> tuple[int, Mapping[str, Any]]:
    """Start the container, pass its output on, wait; the exit code and the daemon's last state."""
    with _attached(client, container_id, stage) as words:
        _start(client, container_id, image_id)
        try:
            for piece in words:
                output.write(piece)
                output.flush()
            with daemon_errors(f"running stage {stage}"):
                code = int(client.api.wait(container_id)["StatusCode"])
                state = client.api.inspect_container(container_id)["State"]
        except KeyboardInterrupt:
            _interrupt(client, container_id)
            raise
    return code, state


@contextlib.contextmanager
def _attached(client: DockerClient, container_id: str, stage: str) -> Iterator[Iterator[bytes]]:
    """What the container will say, as it comes; needs no log kept by the daemon."""
    from docker.utils.socket import frames_iter

    with daemon_errors(f"running stage {stage}"):
        wanted = {"stdout": 1, "stderr": 1, "stream": 1}
        stream = client.api.attach_socket(container_id, params=wanted)
        tty = bool(client.api.inspect_container(container_id)["Config"]["Tty"])

    def pieces() -> Iterator[bytes]:
        with daemon_errors(f"running stage {stage}"):  # whoever writes them raises outside of this
            yield from (piece for _, piece in frames_iter(stream, tty))

    try:
        yield pieces()
    finally:
        # The SDK hangs the response, which owns the connection, on the stream and never closes it.
        stream._response.close()


def _start(client: DockerClient, container_id: str, image_id: str) -> None:
    """Start a container. Raises RuntimeMissingError (no GPUs), ImageError (no entry program)."""
    from docker.errors import APIError

    try:
        with daemon_errors("starting a container"):
            client.api.start(container_id)
    except StageFailedError as error:
        cause = error.__cause__
        if isinstance(cause, APIError) and "device driver" in str(cause):
            raise RuntimeMissingError(
                f"The container engine cannot hand out GPUs ({explain(cause)}). Install NVIDIA's"
                " container toolkit and restart the engine, or set runtime.gpus: 0."
            ) from error
        if isinstance(cause, APIError) and f'exec: "{PYTHON}"' in str(cause):
            raise ImageError(
                f"The image {image_id} cannot run {PYTHON} ({explain(cause)}): no image of this"
                " project. Name one in runtime.image, or build one with `appliance image build`."
            ) from error
        raise


def _interrupt(client: DockerClient, container_id: str) -> None:
    """Let the stage stop by itself as on Ctrl-C, then by force; a dead daemon is not waited for."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    with contextlib.suppress(DockerException, RequestException, OSError):
        client.api.kill(container_id, signal="SIGINT")
        client.api.wait(container_id, timeout=_STOP_TIMEOUT_S)


def _remove(client: DockerClient, container_id: str) -> None:
    """Remove a container, running or not. A daemon that is gone is left to the next run."""
    from docker.errors import DockerException, NotFound
    from requests.exceptions import RequestException

    for _ in range(_REMOVE_TRIES):
        try:
            client.api.remove_container(container_id, force=True, v=True)
        except NotFound:
            return
        except (DockerException, RequestException, OSError) as error:
            logger.info("the container %s is left: %s", container_id[:12], error)
        else:
            return


def _terminal(wanted: bool) -> dict[str, str]:
    if not wanted:
        return {}
    size = shutil.get_terminal_size()
    return {
        "TERM": os.environ.get("TERM", "xterm"),
        "COLUMNS": str(size.columns),
        "LINES": str(size.lines),
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.2f} GiB"
