"""The root statement: an in-toto Statement v1 that lists every file of a bundle.

The predicate is SLSA provenance v1: the normalized manifest is ``externalParameters``, what it was
resolved to is ``resolvedDependencies``, the content digest a byproduct. A key on the machine of the
run makes this Build L1 at most: it shows that nothing changed since signing, not that the run was
done honestly. The builder's id says so and claims nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.bundle.bounds import parse_json
from appliance.bundle.dsse import IN_TOTO_PAYLOAD_TYPE, Envelope
from appliance.bundle.layout import CONTENT, FILE_MODE, FOLDER_MODE, show_name
from appliance.digest import canonical_json

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:plan-star-appliance:run:v1"
BUILDER_ID = "urn:plan-star-appliance:builder:local-key:v1"
SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")


class StatementError(ValueError):
    """Not a statement of this kind; the text says what is wrong, without a place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """Something the run was made from: a name, a digest text such as ``sha256:<hex>``, a URI.

    The digest's algorithm is all before its last colon, so ``sha256-content-v1:<hex>`` works too.
    """

    name: str
    digest: str | None = None
    uri: str | None = None
    annotations: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMetadata:
    """When and as what the run was made, times in RFC 3339; observed, never content."""

    invocation_id: str | None = None
    started_on: str | None = None
    finished_on: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A parsed statement: its subjects' SHA-256 and whole digest sets by name, its predicate."""

    subjects: Mapping[str, str]
    predicate: Mapping[str, Any]
    digest_sets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def modes(self) -> tuple[int, int] | None:
        """The mode of every file and of every folder; None in statements of the first version."""
        definition = self.predicate.get("buildDefinition")
        fields = definition.get("internalParameters") if isinstance(definition, Mapping) else None
        if not isinstance(fields, Mapping):
            return None
        texts = [fields.get("fileMode"), fields.get("folderMode")]
        modes = [int(text, 8) for text in texts if isinstance(text, str) and _is_mode(text)]
        return (modes[0], modes[1]) if len(modes) == 2 else None


def build_statement(
    *,
    digests: Mapping[str, str],
    parameters: Mapping[str, Any],
    dependencies: Sequence[Dependency],
    content_digest: str,
    version: str,
    metadata: RunMetadata,
) -> dict[str, Any]:
    """The statement over the files in ``digests`` (SHA-256 by bundle path), as JSON values."""
    subjects = [{"name": name, "digest": {"sha256": digests[name]}} for name in sorted(digests)]
    times = {
        "invocationId": metadata.invocation_id,
        "startedOn": metadata.started_on,
        "finishedOn": metadata.finished_on,
    }
    return {
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": dict(parameters),
                "internalParameters": {
                    "fileMode": f"{FILE_MODE:04o}",
                    "folderMode": f"{FOLDER_MODE:04o}",
                },
                "resolvedDependencies": [_dependency_to_dict(item) for item in dependencies],
            },
            "runDetails": {
                "builder": {"id": BUILDER_ID, "version": {"plan-star-appliance": version}},
                "metadata": {name: value for name, value in times.items() if value is not None},
                "byproducts": [{"name": CONTENT, "digest": digest_set(content_digest)}],
            },
        },
    }


def encode_statement(statement: Mapping[str, Any]) -> bytes:
    """The payload that is signed: canonical JSON. Raises ValueError for what JSON cannot hold."""
    return canonical_json(statement)


def decode_statement(
    envelope: Envelope, predicate_type: str = PREDICATE_TYPE, *, needs_sha256: bool = True
) -> Statement:
    """The statement in ``envelope``, whose signature is not looked at.

    With ``needs_sha256`` every subject must have a SHA-256; otherwise one without is only found in
    ``digest_sets``. Raises StatementError.
    """
    if envelope.payload_type != IN_TOTO_PAYLOAD_TYPE:
        raise StatementError(f"its payload type is not {IN_TOTO_PAYLOAD_TYPE}")
    try:
        value = parse_json(envelope.payload)
    except ValueError as error:
        raise StatementError(f"its payload is not readable as JSON ({error})") from error
    if not isinstance(value, Mapping):
        raise StatementError("its payload is not a JSON object")
    for name, expected in (("_type", STATEMENT_TYPE), ("predicateType", predicate_type)):
        if value.get(name) != expected:
            raise StatementError(f"its {name} is not {expected}")
    predicate = value.get("predicate")
    if not isinstance(predicate, Mapping):
        raise StatementError("its predicate is not a JSON object")
    digest_sets = _digest_sets_from_list(value.get("subject"))
    return Statement(
        subjects={
            name: _read_sha256(name, digests)
            for name, digests in digest_sets.items()
            if needs_sha256 or "sha256" in digests
        },
        predicate=predicate,
        digest_sets=digest_sets,
    )


def _is_mode(text: str) -> bool:
    return len(text) == 4 and all(character in "01234567" for character in text)


def digest_set(digest: str) -> dict[str, str]:
    """``algorithm:hex`` as an in-toto DigestSet; dashes become underscores, as its names ask.

    Raises ValueError when there is no algorithm.
    """
    algorithm, colon, value = digest.rpartition(":")
    if not (algorithm and colon and value):
        raise ValueError(f"{digest!r} is not ALGORITHM:HEX")
    return {algorithm.replace("-", "_"): value}


def _dependency_to_dict(item: Dependency) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": item.name}
    if item.uri is not None:
        fields["uri"] = item.uri
    if item.digest is not None:
        fields["digest"] = digest_set(item.digest)
    if item.annotations:
        fields["annotations"] = dict(item.annotations)
    return fields


def _digest_sets_from_list(value: object) -> dict[str, dict[str, str]]:
    if not isinstance(value, list):
        raise StatementError("its subject is not a list")
    found: dict[str, dict[str, str]] = {}
    for entry in value:
        name = entry.get("name") if isinstance(entry, Mapping) else None
        digests = entry.get("digest") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or not isinstance(digests, Mapping):
            raise StatementError("a subject has no name or no digest")
        if name in found:
            raise StatementError(f"{show_name(name)} is listed twice")
        found[name] = {
            algorithm: digest
            for algorithm, digest in digests.items()
            if isinstance(algorithm, str) and isinstance(digest, str)
        }
    return found


def _read_sha256(name: str, digests: Mapping[str, str]) -> str:
    digest = digests.get("sha256", "")
    if not SHA256_PATTERN.fullmatch(digest):
        raise StatementError(f"the SHA-256 of {show_name(name)} is not 64 hexadecimal digits")
    return digest
