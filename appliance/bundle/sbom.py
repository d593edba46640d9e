"""Software bills of materials in CycloneDX 1.6 JSON, deterministic: equal input gives equal bytes.

A component may carry the SHA-256 of its installed files, because what runs is not always what a
lock says: installers edit other packages' files. Files come as components inside the component;
where only some are given, they are those that differ from what the package's own list of files
(``RECORD``) promises. No time is written; the serial number is the caller's.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from appliance import __version__
from appliance.digest import sha256_json

SPEC_VERSION = "1.6"
PROPERTY_PREFIX = "plan-star-appliance:"

Kind = Literal["library", "application", "framework", "operating-system", "container", "data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One piece of software: ``purl`` is its package URL, ``sha256s`` its files by path.

    ``properties`` are further facts by name, as text.
    """

    name: str
    version: str
    kind: Kind = "library"
    purl: str | None = None
    sha256s: Mapping[str, str] | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


def describe_components(
    components: Iterable[Component], *, subject_name: str, subject_version: str, serial: str | None
) -> dict[str, Any]:
    """The CycloneDX document of ``components``, which are what ``subject_name`` is made of.

    The order of ``components`` does not matter. ``serial`` is a UUID, with or without
    ``urn:uuid:``; None derives one from the components. Raises ValueError when it is none.
    """
    subject = {
        "bom-ref": "subject",
        "type": "application",
        "name": subject_name,
        "version": subject_version,
    }
    described = [_describe(item) for item in sorted(components, key=_order)]
    _make_refs_unique(described)
    if serial is None:
        serial = str(uuid.UUID(sha256_json([subject, described])[:32], version=4))
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.UUID(serial)}",
        "version": 1,
        "metadata": {
            "component": subject,
            "tools": {
                "components": [
                    {"type": "application", "name": "plan-star-appliance", "version": __version__}
                ]
            },
        },
        "components": described,
        "dependencies": [
            {"ref": "subject", "dependsOn": [item["bom-ref"] for item in described]},
            *({"ref": item["bom-ref"]} for item in described),
        ],
    }


def python_purl(name: str, version: str) -> str:
    """The package URL of a distribution on the Python Package Index."""
    return f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{quote(version)}"


def _order(item: Component) -> tuple[str, str, str]:
    return (item.name.lower(), item.version, item.purl or "")


def _describe(item: Component) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "bom-ref": item.purl or f"{item.kind}:{item.name}@{item.version}",
        "type": item.kind,
        "name": item.name,
        "version": item.version,
    }
    if item.purl:
        fields["purl"] = item.purl
    if item.sha256s:
        fields["components"] = [
            {
                "type": "file",
                "name": path,
                "hashes": [{"alg": "SHA-256", "content": item.sha256s[path]}],
            }
            for path in sorted(item.sha256s)
        ]
    if item.properties:
        fields["properties"] = [
            {"name": PROPERTY_PREFIX + name, "value": item.properties[name]}
            for name in sorted(item.properties)
        ]
    return fields


def _make_refs_unique(described: list[dict[str, Any]]) -> None:
    """A document may name a reference once only; the same package twice gets a number."""
    seen: dict[str, int] = {}
    for item in described:
        ref = item["bom-ref"]
        seen[ref] = seen.get(ref, 0) + 1
        if seen[ref] > 1:
            item["bom-ref"] = f"{ref}#{seen[ref]}"
