"""The container engine's daemon: reach it, and find the image a run is to use.

Everything here speaks to the daemon that ``DOCKER_HOST`` names, or to the standard socket; the
docker command line's contexts are not looked at. It has to run on this machine: run folders are
mounted, not copied.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.errors import ImageError, RuntimeMissingError, StageFailedError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.errors import APIError

LOCAL_IMAGES = {"cpu": "plan-star-appliance:cpu", "cuda": "plan-star-appliance:cuda"}
START_ADVICE = (
    "Start it (systemctl start docker), or name its socket in DOCKER_HOST, or use --engine host."
)
DEFAULT_HOST = "unix:///var/run/docker.sock"
_UNIX = "unix://"
_DEFAULT_REPOSITORY = ("index.docker.io/", "docker.io/", "library/")
_TIMEOUT_S = 120

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image of the daemon; ``digest`` is the registry's, None for one that was never there."""

    name: str
    id: str
    digest: str | None

    def to_dict(self) -> dict[str, Any]:
        """JSON values, for locks and records."""
        return {"name": self.name, "id": self.id, "digest": self.digest}


@contextlib.contextmanager
def connected() -> Iterator[DockerClient]:
    """Yield a client of the daemon. Raises RuntimeMissingError when there is none to talk to."""
    try:
        import docker
        from docker.errors import DockerException
    except ImportError as error:
        raise RuntimeMissingError(
            "Engine docker needs the Docker SDK, which is not installed. Install the run extra, or"
            " use --engine host."
        ) from error
    try:
        _knock()
        told = {**os.environ, "DOCKER_HOST": daemon_address()}
        client = docker.from_env(timeout=_TIMEOUT_S, environment=told)
        client.ping()
    except (DockerException, OSError) as error:
        raise RuntimeMissingError(
            f"The container engine does not answer ({_first_line(error)}). {START_ADVICE}"
        ) from error
    try:
        yield client
    finally:
        client.close()


def daemon_address() -> str:
    """Where the daemon listens, in the form of ``DOCKER_HOST``."""
    return os.environ.get("DOCKER_HOST") or DEFAULT_HOST


def _knock() -> None:
    """Raise OSError when nobody listens; the SDK leaves a socket open then."""
    host = daemon_address()
    if host.startswith(_UNIX):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_TIMEOUT_S)
            probe.connect(host.removeprefix(_UNIX))


@contextlib.contextmanager
def daemon_errors(doing: str) -> Iterator[None]:
    """Turn what the SDK raises inside into StageFailedError; ``doing`` completes "while ...".

    Nothing but the SDK may be called inside: an OSError counts as the connection's.
    """
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except (DockerException, RequestException, OSError) as error:
        raise StageFailedError(
            f"The container engine {_describe_failure(error, doing)} Finished work is kept, so run"
            " the same command again."
        ) from error


def _describe_failure(error: Exception, doing: str) -> str:
    """What happened and what to do: an engine that refused was reached, and refuses again."""
    from docker.errors import APIError

    if isinstance(error, APIError) and error.is_client_error():
        return (
            f"refused {doing} ({explain(error)}). Change what it names: image, limits and GPUs are"
            " the manifest's runtime part, places are --run-dir and dataset.root."
        )
    return f"failed while {doing} ({_first_line(error)}). If it was stopped, start it."


def explain(error: APIError) -> str:
    """The engine's own words, without the request around them."""
    words = str(error.explanation or "").strip()
    return words.splitlines()[0].rstrip(".") if words else _first_line(error)


def find_image(client: DockerClient, name: str, digest: str | None) -> Image:
    """The image called ``name``; pulled when it is not here and its name has a registry's digest.

    ``digest`` pins it: its id, or the digest a registry knows it by. Raises ImageError, and
    StageFailedError when the daemon fails.
    """
    with daemon_errors(f"looking for the image {name}"):
        found = _get_or_pull(client, name, digest)
    known = _registry_digests(found, name)
    digests = [each for _, each in known]
    if digest is not None and digest not in (found.id, *digests):
        raise ImageError(
            f"runtime.image: {name} is not the pinned image.\n  pinned: {digest}\n  found:  "
            f"{found.id}{_list_digests(digests)}\nUse the pinned image, or, if the change is meant,"
            " put the found value into runtime.image_digest."
        )
    own = [each for repository, each in known if repository == _repository(name)]
    if digest in digests:
        own.insert(0, digest)
    return Image(name=name, id=str(found.id), digest=own[0] if own else None)


def _registry_digests(found: Any, name: str) -> list[tuple[str, str]]:
    """Repository and digest of each registry an image is from, as far as the engine can tell.

    Its containerd store names an image built here so too, by the image's own id.
    """
    named = [str(each).partition("@") for each in found.attrs.get("RepoDigests") or ()]
    is_local = name in LOCAL_IMAGES.values()
    return [
        (_repository(repository), digest)
        for repository, _, digest in named
        if not (is_local and digest == found.id)
    ]


def _repository(name: str) -> str:
    """An image's name without tag and digest, and without what the engine leaves out of it."""
    untagged = name.partition("@")[0]
    parent, slash, last = untagged.rpartition("/")
    repository = f"{parent}{slash}{last.partition(':')[0]}"
    for prefix in _DEFAULT_REPOSITORY:
        repository = repository.removeprefix(prefix)
    return repository


def _get_or_pull(client: DockerClient, name: str, digest: str | None) -> Any:
    from docker.errors import APIError, ImageNotFound

    # What was pulled by its pin has no tag; a pin that is an id names an image without any.
    further = () if digest is None else (f"{_repository(name)}@{digest}", digest)
    for each in (name, *further):
        try:
            return client.images.get(each)
        except ImageNotFound:
            continue
        except APIError as error:
            if not error.is_client_error():
                raise
            raise ImageError(
                f"runtime.image: {name}: {explain(error)}. Correct the name; `docker images` lists"
                " what is here."
            ) from error
    return _pull(client, name, digest)


def _pull(client: DockerClient, name: str, digest: str | None) -> Any:
    from docker.errors import APIError

    if name in LOCAL_IMAGES.values():
        variant = next(key for key, value in LOCAL_IMAGES.items() if value == name)
        raise ImageError(
            f"The image {name} is not there. Build it: appliance image build --variant {variant}"
        )
    if digest is None and "@" not in name:
        raise ImageError(
            f"runtime.image: {name} is not on this machine and nothing says which one it is. Pin it"
            f" with runtime.image_digest (then it is pulled), or fetch it: docker pull {name}"
        )
    pinned = name if "@" in name else f"{name.partition('@')[0]}@{digest}"
    logger.info("pulling %s", pinned)
    try:
        return client.images.pull(pinned)
    except APIError as error:
        raise ImageError(
            f"runtime.image: {pinned} is not on this machine and cannot be pulled"
            f" ({_first_line(error)}). Check the name, the network and the registry's login."
        ) from error


def _list_digests(digests: Sequence[str]) -> str:
    return "".join(f"\n          {digest} (registry)" for digest in digests)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
