"""What is installed: every Python distribution, every Debian package, and the bytes that matter.

``python -m appliance.stages.inventory`` prints it as JSON; inside a container image that is how the
engine learns what its stages will run in. What runs is not always what a lock says: installers edit
other packages' files. So the files of the packages that decide results are hashed, and those that
are not what the package's own list (``RECORD``) promises are named.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance import __version__
from appliance.digest import canonical_json, sha256_json, tree_digest
from appliance.errors import ImageError
from appliance.simulator.checkout import (
    ASSETS_FOLDER,
    digest_assets,
    digest_code,
    digest_environment,
)
from appliance.simulator.checkout_worker import RUNTIME
from appliance.stages import dataset, evaluate, norm_stats, plan, train
from appliance.stages.environment import PACKAGE_DIR, source_digests
from appliance.stages.installed import KnownDigests, examine_files
from appliance.training.platform import GPU_PACKAGES

INVENTORY_VERSION = 1
OWN_DISTRIBUTION = "plan-star-appliance"
ROBOTWIN_ENVIRONMENT = Path("/opt/robotwin")
"""Where an image for GPUs has RoboTwin's runtime, in an environment of its own."""
ROBOTWIN_ASSETS = Path("/opt/robotwin-assets")
"""Where an image has RoboTwin's assets, if it was built with them."""
DPKG_STATUS = Path("/var/lib/dpkg/status")
# Beside what the stages name: what they reach through others, and the planner on a GPU.
_FURTHER = ("nvidia-curobo", "warp-lang", "setuptools")
JAX_ON_GPUS = "jax-cuda12-plugin"


@dataclass(frozen=True, slots=True)
class Inventory:
    """What ``describe_installation`` found, here or inside an image; ``value`` is its JSON."""

    value: Mapping[str, Any]

    @classmethod
    def from_dict(cls, value: object) -> Inventory:
        """Raises ImageError when ``value`` is no inventory of this version."""
        keys = ("version", "appliance", "python", "libc", "sources", "distributions", "system")
        if not isinstance(value, Mapping) or any(key not in value for key in keys):
            raise ImageError(
                "The image does not hold this appliance: it gives no inventory. Build one with"
                " `appliance image build`."
            )
        if value["version"] != INVENTORY_VERSION:
            raise ImageError(
                f"The image gives an inventory of version {value['version']!r}, and this appliance"
                f" reads {INVENTORY_VERSION}. Build the image again with `appliance image build`."
            )
        return cls(value)

    @property
    def digest(self) -> str:
        """One digest of all that is installed beside this project's own code."""
        others = [item for item in self.value["distributions"] if item["name"] != OWN_DISTRIBUTION]
        parts = {name: self.value[name] for name in ("python", "libc", "system")}
        if self.robotwin is not None:
            parts["robotwin"] = self.robotwin
        return f"sha256-inventory-v1:{sha256_json({**parts, 'distributions': others})}"

    @property
    def robotwin(self) -> Mapping[str, str | None] | None:
        """Digests of RoboTwin's ``code``, ``environment`` and ``assets`` (None: it has none) in an
        image for GPUs; None where RoboTwin has no environment of its own.
        """
        found: Mapping[str, str | None] | None = self.value.get("robotwin")
        return found

    def version_of(self, name: str) -> str | None:
        """The version of a distribution in the main environment; None where it is not installed."""
        wanted = normalize_name(name)
        for item in self.value["distributions"]:
            if item["name"] == wanted and item["environment"] == "appliance":
                return str(item["version"])
        return None

    @property
    def changed_files(self) -> dict[str, list[str]]:
        """Files that are not what their package promises, by distribution."""
        return {
            item["name"]: list(item["changed"])
            for item in self.value["distributions"]
            if item.get("changed")
        }


def describe_installation() -> Inventory:
    """Look at this Python's environment, the simulator's own if there is one, and the system.

    Reads some gigabytes; seconds.
    """
    distributions = _distributions("appliance", None)
    robotwin = _describe_robotwin(ROBOTWIN_ENVIRONMENT, ROBOTWIN_ASSETS)
    if robotwin is not None:
        packages = sorted(ROBOTWIN_ENVIRONMENT.glob("lib/python*/site-packages"))
        distributions += _distributions("robotwin", packages)
    return Inventory(
        {
            **({} if robotwin is None else {"robotwin": robotwin}),
            "version": INVENTORY_VERSION,
            "appliance": __version__,
            "python": platform.python_version(),
            "libc": " ".join(platform.libc_ver()),
            "sources": source_digests(_rooms()),
            "distributions": sorted(
                distributions, key=lambda item: (item["environment"], item["name"])
            ),
            "system": {"name": _system_name(), "packages": list(debian_packages())},
        }
    )


def _describe_robotwin(environment: Path, assets: Path) -> dict[str, str | None] | None:
    """See ``Inventory.robotwin``."""
    python = environment / "bin" / "python"
    if not python.exists():
        return None
    return {
        "code": digest_code(assets, python, RUNTIME),
        "environment": digest_environment(python),
        "assets": digest_assets(assets) if (assets / ASSETS_FOLDER).is_dir() else None,
    }


def debian_packages(status: Path = DPKG_STATUS) -> Iterator[dict[str, str]]:
    """Name, version and architecture of every installed Debian package, by name."""
    if not status.is_file():
        return
    found: list[dict[str, str]] = []
    for paragraph in status.read_text("utf-8", errors="replace").split("\n\n"):
        fields = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", paragraph, re.M))
        if fields.get("Status", "").endswith(" installed"):
            found.append(
                {
                    "name": fields["Package"],
                    "version": fields["Version"],
                    "architecture": fields["Architecture"],
                }
            )
    yield from sorted(found, key=lambda item: (item["name"], item["architecture"]))


def normalize_name(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages_that_matter(installed: Container[str]) -> frozenset[str]:
    """Distributions whose bytes decide a stage's result where the ``installed`` ones are.

    CUDA's do where jax can compute with them, and not where torch alone has brought them.
    """
    named = {name for stage in _stages() for name in stage.packages}
    on_gpus = GPU_PACKAGES if JAX_ON_GPUS in installed else ()
    return frozenset(map(normalize_name, {*named, *_FURTHER, *on_gpus}))


def _stages() -> tuple[Any, ...]:
    return (
        dataset.STAGE,
        plan.STAGE,
        norm_stats.stage(with_plan=True),
        train.stage(with_plan=True),
        evaluate.STAGE,
    )


def _rooms() -> Iterable[str]:
    return sorted(
        path.name if path.is_dir() else path.stem
        for path in PACKAGE_DIR.iterdir()
        if (path / "__init__.py").is_file() or (path.suffix == ".py" and path.stem[0] != "_")
    )


def _distributions(environment: str, folders: list[Path] | None) -> list[dict[str, Any]]:
    found: dict[str, importlib.metadata.Distribution] = {}
    path = sys.path if folders is None else list(map(str, folders))
    for item in importlib.metadata.distributions(path=path):
        # The first on the path is the one imported.
        found.setdefault(normalize_name(item.metadata["Name"]), item)
    matter = packages_that_matter(found)
    return [
        {
            "name": name,
            "version": item.version,
            "environment": environment,
            **(_installed_bytes(item) if name in matter else {}),
        }
        for name, item in found.items()
    ]


def _installed_bytes(item: importlib.metadata.Distribution) -> dict[str, Any]:
    """Digest of the installed files, and which are not what RECORD promises."""
    files = examine_files(item, KnownDigests(None))
    return {
        "files": tree_digest(files.digests),
        "changed": sorted({*files.differing, *files.missing}),
    }


def _system_name() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return platform.system()
    return f"{release.get('ID', '')} {release.get('VERSION_ID', '')}".strip()


def main() -> int:
    """Print the inventory of this environment as canonical JSON."""
    sys.stdout.buffer.write(canonical_json(dict(describe_installation().value)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
