"""The run as an in-toto supply chain: a layout and one link for each step, all signed.

Whoever runs ``in-toto-verify`` learns without our code that what a step read is exactly what the
steps before it made (the evaluated checkpoint is the trained one), and, by the layout's inspection
of a copy of ``content/``, that the result files in hand are the steps' products. Layout and links
are in the format of in-toto 1.0 inside DSSE envelopes; there the key has another name, computed as
securesystemslib does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.bundle.dsse import IN_TOTO_PAYLOAD_TYPE, envelope_to_dict, sign_envelope
from appliance.bundle.keys import SigningKey
from appliance.bundle.layout import CONTENT
from appliance.bundle.public_keys import PublicKey
from appliance.bundle.step import Step, list_materials
from appliance.digest import canonical_json, sha256_bytes

LAYOUT_FILE = "run.layout"
INSPECTION = "bundle"
# A layout must end; what a bundle says does not.
EXPIRES = "9999-12-31T23:59:59Z"
KEY_TYPE, KEY_SCHEME = "ecdsa", "ecdsa-sha2-nistp256"
SHORT_KEY_ID = 8


def in_toto_key_id(key: PublicKey) -> str:
    """The key's name in in-toto's metadata: SHA-256 of the key object in OLPC canonical JSON."""
    # That form escapes only quotes and backslashes, of which a PEM has none; the line breaks stay.
    text = '{"keytype":"%s","keyval":{"public":"%s"},"scheme":"%s"}'
    return sha256_bytes((text % (KEY_TYPE, key.pem.decode("ascii"), KEY_SCHEME)).encode("ascii"))


def build_in_toto_files(
    steps: Sequence[Step], content: Mapping[str, str], key: SigningKey
) -> dict[str, bytes]:
    """The signed layout and links by file name.

    ``content`` maps the paths below ``content/`` to SHA-256; files there that are no step's product
    (``content/STEP/...``) must be an input of the first step under the same name.
    """
    key_id = in_toto_key_id(key.public)
    files = {LAYOUT_FILE: _sign(_build_layout(steps, content, key.public), key)}
    for step in steps:
        files[f"{step.name}.{key_id[:SHORT_KEY_ID]}.link"] = _sign(_build_link(step, steps), key)
    return files


def _build_layout(
    steps: Sequence[Step], content: Mapping[str, str], key: PublicKey
) -> dict[str, Any]:
    key_id = in_toto_key_id(key)
    fields = {"keytype": KEY_TYPE, "scheme": KEY_SCHEME, "keyval": {"public": key.pem.decode()}}
    return {
        "_type": "layout",
        "expires": EXPIRES,
        "readme": "Each step read exactly what the steps before it made, and content/ is theirs.",
        "keys": {key_id: {"keyid": key_id, **fields}},
        "steps": [
            {
                "_type": "step",
                "name": step.name,
                "pubkeys": [key_id],
                "threshold": 1,
                "expected_command": list(step.command),
                "expected_materials": _material_rules(step, steps),
                "expected_products": [["CREATE", f"{step.name}/*"], ["DISALLOW", "*"]],
            }
            for step in steps
        ],
        "inspect": [
            {
                "_type": "inspection",
                "name": INSPECTION,
                "run": ["true"],
                "expected_materials": _inspection_rules(steps, content),
                "expected_products": [],
            }
        ],
    }


def _material_rules(step: Step, steps: Sequence[Step]) -> list[list[str]]:
    """Every product of the upstream steps must be there, and nothing that is not accounted for."""
    first = steps[0]
    rules = [["REQUIRE", name] for name in sorted(list_materials(step, steps))]
    rules += [["MATCH", f"{name}/*", "WITH", "PRODUCTS", "FROM", name] for name in step.upstream]
    for name in sorted(step.inputs):
        if step is first or name not in first.inputs:
            rules.append(["ALLOW", name])
        else:
            rules.append(["MATCH", name, "WITH", "MATERIALS", "FROM", first.name])
    return [*rules, ["DISALLOW", "*"]]


def _inspection_rules(steps: Sequence[Step], content: Mapping[str, str]) -> list[list[str]]:
    rules = [["REQUIRE", f"{CONTENT}/{name}"] for name in sorted(content)]
    for step in steps:
        source, product = f"{CONTENT}/{step.name}", f"{step.name}/{CONTENT}"
        rules.append(["MATCH", "*", "IN", source, "WITH", "PRODUCTS", "IN", product, "FROM"])
        rules[-1].append(step.name)
    rules.append(["MATCH", "*", "IN", CONTENT, "WITH", "MATERIALS", "FROM", steps[0].name])
    return [*rules, ["DISALLOW", "*"]]


def _build_link(step: Step, steps: Sequence[Step]) -> dict[str, Any]:
    return {
        "_type": "link",
        "name": step.name,
        "command": list(step.command),
        "materials": _digest_sets(list_materials(step, steps)),
        "products": _digest_sets(step.made),
        "byproducts": {},
        "environment": {},
    }


def _digest_sets(files: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {name: {"sha256": files[name]} for name in sorted(files)}


def _sign(metadata: Mapping[str, Any], key: SigningKey) -> bytes:
    envelope = sign_envelope(
        canonical_json(metadata), IN_TOTO_PAYLOAD_TYPE, key, key_id=in_toto_key_id(key.public)
    )
    return json.dumps(envelope_to_dict(envelope), indent=1, sort_keys=True).encode() + b"\n"
