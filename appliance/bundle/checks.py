"""The single checks of a bundle: attestation, signature, files against the statement, figures.

Each takes what was found and returns findings; none raises for what a bundle holds, none stops at
the first thing wrong.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from appliance.bundle.bounds import parse_json
from appliance.bundle.dsse import Envelope, EnvelopeError, is_signed_by
from appliance.bundle.findings import Finding, Severity, error, warning
from appliance.bundle.inventory import Inventory
from appliance.bundle.layout import (
    ATTESTATION_FILE,
    BUNDLE_FILE,
    FORMAT,
    FORMAT_FAMILY,
    PUBLIC_KEY_FILE,
    content_digest,
    describe_name_fault,
    find_name_clashes,
    show_name,
)
from appliance.bundle.public_keys import PublicKey, parse_public_key
from appliance.bundle.sigstore import decode_attestation
from appliance.bundle.statement import Statement, StatementError, decode_statement, digest_set

SHORT_DIGEST = 16
UNUSUAL_MODE = 0o7111


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """What the attestation file holds, as far as it can be read; nothing is verified by this."""

    envelope: Envelope | None = None
    statement: Statement | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def key_id(self) -> str | None:
        """The key the signature names."""
        return self.envelope.signatures[0].key_id if self.envelope else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Whether the signature holds, and whether the key that made it is a trusted one.

    ``key`` is the key it was checked with and holds for; None when it does not hold.
    """

    trusted: bool
    findings: tuple[Finding, ...]
    key: PublicKey | None = None


def read_attestation(data: bytes | None) -> Attestation:
    """Read the attestation file's bytes; None stands for a file that is missing or unreadable."""
    if data is None:
        text = "is missing or cannot be read, so nothing says what this bundle should hold"
        return Attestation(findings=(error("attestation-missing", text, ATTESTATION_FILE),))
    try:
        envelope, is_first_form = _decode_either(data)
    except EnvelopeError as problem:
        text = f"was changed or is not an attestation: {problem}"
        return Attestation(findings=(error("attestation-malformed", text, ATTESTATION_FILE),))
    try:
        statement = decode_statement(envelope)
    except StatementError as problem:
        text = f"holds no usable statement: {problem}"
        finding = error("statement-malformed", text, ATTESTATION_FILE)
        return Attestation(envelope=envelope, findings=(finding,))
    if is_first_form and statement.modes is not None:
        text = "was changed or is not an attestation: its tlogEntries are missing"
        return Attestation(findings=(error("attestation-malformed", text, ATTESTATION_FILE),))
    return Attestation(
        envelope=envelope, statement=statement, findings=tuple(_check_subjects(statement))
    )


def _decode_either(data: bytes) -> tuple[Envelope, bool]:
    """The envelope in the present form, or in that of the first version (then True)."""
    try:
        return decode_attestation(data), False
    except EnvelopeError as problem:
        try:
            return decode_attestation(data, first_form=True), True
        except EnvelopeError:
            raise problem from None


def check_origin(
    envelope: Envelope, bundled_pem: bytes | None, trusted: Mapping[str, PublicKey]
) -> Origin:
    """Check the signature with the trusted key it names, else with the key inside the bundle.

    The key inside the bundle shows at most that nothing changed since signing, never by whom.
    """
    key_id = envelope.signatures[0].key_id
    bundled, findings = _read_bundled_key(bundled_pem, key_id)
    key = trusted.get(key_id) or bundled
    if key is None:
        text = "cannot be checked: neither a trusted key nor public_key.pem is the one it names"
        findings.append(error("signature-unchecked", text, ATTESTATION_FILE))
        return Origin(trusted=False, findings=tuple(findings))
    if not is_signed_by(envelope, key):
        text = f"its signature is not one of the key {key_id} over this statement"
        findings.append(error("signature-invalid", text, ATTESTATION_FILE))
        return Origin(trusted=False, findings=tuple(findings))
    if key_id not in trusted:
        text = f"is signed by the key {key_id}, which is not a trusted one"
        findings.append(warning("origin-unknown", text, ATTESTATION_FILE))
    return Origin(trusted=key_id in trusted, findings=tuple(findings), key=key)


def check_files(subjects: Mapping[str, str], inventory: Inventory) -> list[Finding]:
    """Compare the files that are there with those the statement lists, and name each difference."""
    actual = {name: sha for name, sha in inventory.digests.items() if name != ATTESTATION_FILE}
    unreadable = {finding.path for finding in inventory.findings if finding.path}
    missing = [name for name in subjects if name not in actual]
    extra = {name: sha for name, sha in actual.items() if name not in subjects}
    renamed = _match_renamed({name: subjects[name] for name in missing}, extra)
    findings = [_describe_rename(old, new) for old, new in renamed.items()]
    findings.extend(
        error("file-missing", "is missing", show_name(name))
        for name in missing
        if name not in renamed and name not in unreadable
    )
    findings.extend(
        error("file-extra", "is not in the signed statement; it was added", show_name(name))
        for name in sorted(set(extra) - set(renamed.values()))
    )
    findings.extend(_check_changed(subjects, actual))
    ordered = sorted(subjects)
    findings.extend(
        error("folder-extra", "is an empty folder that no signed file lies in", show_name(name))
        for name in inventory.empty_folders
        if not _has_file_below(name + "/", ordered)
    )
    return findings


def check_modes(
    statement: Statement, inventory: Inventory, severity: Severity
) -> Iterator[Finding]:
    """Each file and folder whose permissions are not those in the statement.

    Bundles of the first version signed no modes; there an executable file is a warning.
    """
    if statement.modes is None:
        for name, mode in inventory.file_modes.items():
            if mode & UNUSUAL_MODE:
                text = f"has mode {mode:04o}; a bundle's files are not executable"
                yield warning("mode-unusual", text, show_name(name))
        return
    file_mode, folder_mode = statement.modes
    modes = [(name, mode, file_mode) for name, mode in inventory.file_modes.items()]
    modes += [(name, mode, folder_mode) for name, mode in inventory.folder_modes.items()]
    for name, mode, expected in modes:
        if mode != expected:
            text = (
                f"has mode {mode:04o}, but was signed with {expected:04o}. If only copying did"
                " this, run: find BUNDLE -type d -exec chmod 755 {} + -o -exec chmod 644 {} +"
            )
            yield Finding(
                severity=severity, code="mode-changed", message=text, path=show_name(name)
            )


def recompute_content_digest(digests: Mapping[str, str]) -> str | None:
    """The content digest of the files that are there; None when a name cannot be hashed."""
    try:
        return content_digest(digests)
    except ValueError:
        return None


def check_bundle_file(
    data: bytes | None, statement: Statement, found_digest: str | None
) -> list[Finding]:
    """Check ``bundle.json`` and the content digest it, the statement and the files agree on."""
    findings: list[Finding] = []
    try:
        value = parse_json(data) if data is not None else None
    except ValueError as problem:
        findings.append(error("malformed", f"is not readable as JSON ({problem})", BUNDLE_FILE))
        value = None
    if isinstance(value, Mapping):
        if value.get("format") != FORMAT:
            said = _show(value.get("format"))
            text = f"says the bundle's format is {said}; this version knows {FORMAT}"
            findings.append(error("format-unknown", text, BUNDLE_FILE))
    elif data is not None and not findings:
        findings.append(error("malformed", "is not a JSON object", BUNDLE_FILE))
    stated = value.get("content_digest") if isinstance(value, Mapping) else None
    if (
        found_digest is None
        or stated != found_digest
        or not _states_digest(statement, found_digest)
    ):
        text = (
            f"the files give the content digest {found_digest}, {BUNDLE_FILE} says"
            f" {_show(stated)}, and {ATTESTATION_FILE} says"
            f" {'the same as the files' if _states_digest(statement, found_digest) else 'another'}"
        )
        findings.append(error("content-digest", text))
    return findings


def is_our_bundle_file(data: bytes | None) -> bool:
    """Whether these are the bytes of a ``bundle.json`` of any version of this format."""
    try:
        value = parse_json(data) if data is not None else None
    except ValueError:
        return False
    text = value.get("format") if isinstance(value, Mapping) else None
    return isinstance(text, str) and text.startswith(FORMAT_FAMILY)


def _check_subjects(statement: Statement) -> Iterator[Finding]:
    for name in statement.subjects:
        fault = describe_name_fault(name)
        if fault or name == ATTESTATION_FILE:
            text = (
                f"is listed in the statement, but its name {fault or 'is the attestation itself'}"
            )
            yield error("name-unsafe", text, show_name(name))
    usable = (name for name in statement.subjects if describe_name_fault(name) is None)
    for first, second in find_name_clashes(usable):
        text = f"is listed beside {show_name(first)}, which some file systems cannot keep apart"
        yield error("name-clash", text, show_name(second))
    for needed in (BUNDLE_FILE, PUBLIC_KEY_FILE):
        if needed not in statement.subjects:
            yield error("not-covered", "is not covered by the signed statement", needed)


def _read_bundled_key(pem: bytes | None, key_id: str) -> tuple[PublicKey | None, list[Finding]]:
    if pem is None:
        return None, []
    try:
        key = parse_public_key(pem)
    except ValueError as problem:
        return None, [error("public-key-malformed", f"is {problem}", PUBLIC_KEY_FILE)]
    if key.key_id != key_id:
        text = f"is the key {key.key_id}, but the signature names {show_name(key_id)}"
        return None, [error("public-key-mismatch", text, PUBLIC_KEY_FILE)]
    return key, []


def _match_renamed(missing: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Old name to new name for files whose bytes turned up under another name.

    Of several candidates the one that differs only in case, then the most alike in its last part.
    """
    queues: dict[tuple[str, ...], deque[str]] = {}
    for name in sorted(extra):
        for likeness in _likenesses(extra[name], name):
            queues.setdefault(likeness, deque()).append(name)
    renamed: dict[str, str] = {}
    taken: set[str] = set()
    for old in sorted(missing):
        for likeness in _likenesses(missing[old], old):
            queue = queues.get(likeness, deque())
            while queue and queue[0] in taken:
                queue.popleft()
            if queue:
                renamed[old] = queue[0]
                taken.add(queue[0])
                break
    return renamed


def _likenesses(digest: str, name: str) -> tuple[tuple[str, ...], ...]:
    """What two names of one file have in common, the closest likeness first."""
    last = name.rpartition("/")[2]
    return (digest, "but for case", name.casefold()), (digest, "last part", last), (digest,)


def _has_file_below(prefix: str, ordered: Sequence[str]) -> bool:
    """Whether one of the sorted names ``ordered`` begins with ``prefix``."""
    place = bisect.bisect_left(ordered, prefix)
    return place < len(ordered) and ordered[place].startswith(prefix)


def _describe_rename(old: str, new: str) -> Finding:
    how = "renamed in upper and lower case only" if old.casefold() == new.casefold() else "renamed"
    return error("file-renamed", f"was {how}: it is now {show_name(new)}", show_name(old))


def _check_changed(subjects: Mapping[str, str], actual: Mapping[str, str]) -> Iterator[Finding]:
    changed = {
        name: actual[name]
        for name in sorted(subjects)
        if name in actual and actual[name] != subjects[name]
    }
    owners: dict[str, str] = {}
    for name in sorted(subjects, reverse=True):
        owners[subjects[name]] = name
    for name, found in changed.items():
        owner = owners.get(found)
        if owner is None:
            expected = subjects[name][:SHORT_DIGEST]
            text = f"was changed (SHA-256 {found[:SHORT_DIGEST]}..., signed {expected}...)"
            yield error("file-changed", text, show_name(name))
        elif actual.get(owner) == subjects[name]:
            yield error("file-swapped", f"was swapped with {show_name(owner)}", show_name(name))
        else:
            yield error("file-changed", f"now holds what {show_name(owner)} held", show_name(name))


def _show(value: object) -> str:
    return show_name(value) if isinstance(value, str) else "nothing usable"


def _states_digest(statement: Statement, found: str | None) -> bool:
    details = statement.predicate.get("runDetails")
    byproducts = details.get("byproducts") if isinstance(details, Mapping) else None
    if found is None or not isinstance(byproducts, Sequence):
        return False
    expected = digest_set(found)
    return any(
        isinstance(entry, Mapping) and entry.get("digest") == expected for entry in byproducts
    )
