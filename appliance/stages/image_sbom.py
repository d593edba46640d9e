"""The bill of materials of an image, from its inventory: Python distributions, Debian packages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from appliance.bundle.sbom import Component, describe_components, python_purl
from appliance.engine.daemon import Image
from appliance.stages.inventory import Inventory


def describe_image(image: Image, inventory: Inventory) -> dict[str, Any]:
    """The CycloneDX document of an image; equal inventories give equal documents."""
    return describe_components(
        list_components(inventory),
        subject_name=image.name,
        subject_version=inventory.digest,
        serial=None,
    )


def list_components(inventory: Inventory) -> Iterator[Component]:
    """Every component of an image; files that are not what their package promises are named."""
    for item in inventory.value["distributions"]:
        properties = {"environment": str(item["environment"])}
        if "files" in item:
            properties |= {"installed-files": item["files"], "changed-files": _names(item)}
        yield Component(
            name=item["name"],
            version=item["version"],
            purl=python_purl(item["name"], item["version"]),
            properties=properties,
        )
    system = inventory.value["system"]
    distribution = str(system["name"]).partition(" ")[0]
    for item in system["packages"]:
        purl = f"pkg:deb/{distribution}/{item['name']}@{quote(item['version'])}"
        yield Component(
            name=item["name"],
            version=item["version"],
            purl=f"{purl}?arch={item['architecture']}",
            properties={"system": str(system["name"])},
        )
    yield Component(name="python", version=inventory.value["python"], kind="application")


def _names(item: Mapping[str, Any]) -> str:
    return ", ".join(item["changed"]) or "none"
