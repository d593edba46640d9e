"""A container image as the environment of stages: found, pinned, and asked what is in it.

The answer (the inventory) is kept by image id in the user's cache; an id names the bytes of an
image, so it is asked once.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.engine.container import read_from_image
from appliance.engine.daemon import LOCAL_IMAGES, Image, connected, find_image
from appliance.errors import ImageError, StorageError
from appliance.files import read_json, write_json
from appliance.manifest.model import RuntimePart
from appliance.stages.environment import BASE_ROOMS, describe_platform
from appliance.stages.inventory import Inventory, normalize_name

_ENTRY = ("-m", "appliance.stages.inventory")


@dataclass(frozen=True, slots=True)
class ImageEnvironment:
    """What stages see inside ``image``; the processor is this machine's."""

    found: Image
    inventory: Inventory

    @property
    def image(self) -> Mapping[str, Any]:
        """Name, id, registry digest, and the digest of what is installed."""
        return {**self.found.to_dict(), "inventory": self.inventory.digest}

    @property
    def robotwin(self) -> Mapping[str, str | None] | None:
        """See :class:`appliance.stages.environment.Environment`."""
        return self.inventory.robotwin

    @property
    def platform(self) -> Mapping[str, Any]:
        """See :class:`appliance.stages.environment.Environment`."""
        inside = {name: self.inventory.value[name] for name in ("appliance", "python", "libc")}
        return {**describe_platform(), "system": "Linux", "machine": platform.machine(), **inside}

    def package_versions(self, names: Iterable[str]) -> dict[str, str | None]:
        """See :class:`appliance.stages.environment.Environment`."""
        versions = {
            item["name"]: str(item["version"])
            for item in self.inventory.value["distributions"]
            if item["environment"] == "appliance"
        }
        return {name: versions.get(normalize_name(name)) for name in sorted(names)}

    def source_digests(self, rooms: Iterable[str]) -> dict[str, str]:
        """See :class:`appliance.stages.environment.Environment`. Raises ImageError."""
        sources = self.inventory.value["sources"]
        wanted = sorted({*BASE_ROOMS, *rooms})
        missing = [room for room in wanted if room not in sources]
        if missing:
            raise ImageError(
                f"The image {self.found.name} holds an older appliance without"
                f" {', '.join(missing)}. Build it again with `appliance image build`."
            )
        return {room: sources[room] for room in wanted}


def image_name(runtime: RuntimePart) -> str:
    """The image a manifest asks for, or the one built here that fits its GPUs."""
    return runtime.image or LOCAL_IMAGES["cuda" if runtime.gpus else "cpu"]


def open_image(name: str, digest: str | None, facts_dir: Path) -> ImageEnvironment:
    """Find the image ``name`` (see ``find_image``) and learn what is in it.

    Raises ImageError, RuntimeMissingError, StageFailedError, StorageError.
    """
    with connected() as client:
        found = find_image(client, name, digest)
    return ImageEnvironment(found, read_inventory(found.id, facts_dir))


def read_inventory(image_id: str, facts_dir: Path) -> Inventory:
    """What is installed in an image; asked in a container the first time (some seconds)."""
    kept = facts_dir / "images" / f"{image_id.rpartition(':')[2]}.json"
    try:
        return Inventory.from_dict(read_json(kept))
    except (StorageError, ImageError):
        pass
    said = read_from_image(image_id, _ENTRY)
    try:
        value = json.loads(said)
    except ValueError as error:
        raise ImageError(
            f"The image {image_id} does not say what is installed in it. Build it again with"
            " `appliance image build`."
        ) from error
    inventory = Inventory.from_dict(value)
    write_json(kept, dict(inventory.value))
    return inventory
