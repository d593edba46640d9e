"""Building an image from this project's ``docker/`` folder.

The SDK only drives the old builder, which knows no secrets and no mounts, so this calls the docker
command line with BuildKit. A certificate bundle is given to the build as a secret: it is in no
layer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.engine.daemon import LOCAL_IMAGES, daemon_address
from appliance.errors import ImageError, RuntimeMissingError

DOCKERFILE = Path("docker") / "Dockerfile"
SYSTEM_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_HELP_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What to build, from what; ``arguments`` are the Dockerfile's build arguments.

    ``network`` is the builder's: its default, or ``host`` where an engine has no bridge.
    """

    variant: str
    source_dir: Path
    name: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    certificates: Path | None = None
    network: str = "default"
    use_cache: bool = True

    @property
    def image_name(self) -> str:
        """What the image is called afterwards."""
        return self.name or LOCAL_IMAGES[self.variant]


def build_image(request: BuildRequest) -> None:
    """Build, with the builder's words on stderr as they come. Raises ImageError."""
    if not (request.source_dir / DOCKERFILE).is_file():
        raise ImageError(
            f"{request.source_dir}: holds no {DOCKERFILE}. Images are built from a checkout of this"
            " project: name it with --source."
        )
    certificates = request.certificates
    if certificates is not None and not certificates.is_file():
        raise ImageError(f"{certificates}: there is no such file. Check --certificates.")
    command = build_command(find_builder(), request)
    done = subprocess.run(
        command,
        cwd=request.source_dir,
        env=_builder_environment(),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode:
        raise ImageError(
            f"The image {request.image_name} could not be built (docker build ended with"
            f" {done.returncode}; its last lines above say why). docker/README.md says how to build"
            " without an image registry, with another base, or through a proxy."
        )


def build_command(docker: Path, request: BuildRequest) -> list[str]:
    """The docker command line of a request; everything in it is deterministic."""
    # Resolved here: docker runs in the source folder, and the name is the caller's.
    secret = None if request.certificates is None else request.certificates.resolve()
    if secret is None and SYSTEM_CERTIFICATES.is_file():
        secret = SYSTEM_CERTIFICATES
    return [
        str(docker),
        "build",
        *("--progress", "plain", "--network", request.network),
        *("--file", str(DOCKERFILE), "--target", request.variant, "--tag", request.image_name),
        *(() if secret is None else ("--secret", f"id=ca,src={secret}")),
        *(() if request.use_cache else ("--no-cache",)),
        *(
            word
            for name, value in sorted(request.arguments.items())
            for word in ("--build-arg", f"{name}={value}")
        ),
        ".",
    ]


def find_builder() -> Path:
    """The first docker command on the path that can build with BuildKit.

    Raises RuntimeMissingError: there is none, or only ones without it (new ones need buildx).
    """
    seen: list[str] = []
    for candidate in _commands("docker"):
        seen.append(str(candidate))
        try:
            said = subprocess.run(
                [str(candidate), "build", "--help"],
                env=_builder_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_HELP_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if said.returncode == 0 and "--secret" in said.stdout:
            return candidate
    raise RuntimeMissingError(
        "Images are built with the docker command line and BuildKit; "
        + (f"{', '.join(seen)} cannot: install its buildx plugin." if seen else "none is here.")
        + " On Debian: apt-get install docker.io"
    )


def _builder_environment() -> dict[str, str]:
    """The caller's variables, with the daemon that runs will use instead of a context's."""
    kept = {name: value for name, value in os.environ.items() if name != "DOCKER_CONTEXT"}
    return {**kept, "DOCKER_BUILDKIT": "1", "DOCKER_HOST": daemon_address()}


def _commands(name: str) -> Iterator[Path]:
    """Every command of this name on the path, each once."""
    seen: set[Path] = set()
    for folder in os.get_exec_path():
        found = shutil.which(name, path=folder)
        if found is not None and (place := Path(found).resolve()) not in seen:
            seen.add(place)
            yield place
