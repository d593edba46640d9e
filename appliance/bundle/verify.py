"""The check of a whole bundle: every check is a finding, and the findings make the verdict.

A bundle is never believed: not its names, not its sizes, not its own public key. What it says of
its run is repeated only with the remark that nothing was re-computed. Only a key this user trusts,
or gave, turns "intact" into "intact and from a known signer".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.bundle.archive import is_archive, take_archive_inventory
from appliance.bundle.bounds import (
    MAX_ATTESTATION_BYTES,
    MAX_EPISODES_BYTES,
    MAX_FACT_FILE_BYTES,
)
from appliance.bundle.checks import (
    Attestation,
    check_bundle_file,
    check_files,
    check_modes,
    check_origin,
    is_our_bundle_file,
    read_attestation,
    recompute_content_digest,
)
from appliance.bundle.facts import (
    EPISODES_FILE,
    check_facts,
    check_registrations,
    is_fact_file,
    read_claims,
    read_manifest,
)
from appliance.bundle.findings import (
    Claims,
    Countersignature,
    Finding,
    Severity,
    Verdict,
    VerifyReport,
    error,
    warning,
)
from appliance.bundle.inventory import Inventory, take_inventory
from appliance.bundle.keys import TrustedKeys, read_own_key, read_trusted_keys, trust_dir_of
from appliance.bundle.layout import (
    ATTESTATION_FILE,
    BUNDLE_FILE,
    PUBLIC_KEY_FILE,
)
from appliance.bundle.public_keys import PublicKey, load_public_key
from appliance.bundle.summary import check_summary, find_summaries


def verify_bundle(
    path: Path,
    *,
    public_key: Path | None = None,
    key_dir: Path | None = None,
    trust_dir: Path | None = None,
    expected: Expected | None = None,
    expected_content_digest: str | None = None,
    countersignatures: Sequence[Path] = (),
) -> VerifyReport:
    """Check the bundle folder or archive ``path``; never raises for what is in it.

    With ``public_key`` (a PEM file) only that key is trusted; without, the user's own key in
    ``key_dir`` and those in ``trust_dir`` (``key_dir``/trusted) are.
    ``expected`` guards against another, older bundle put in the place of this one
    (``expected_content_digest`` is short for the one figure). The countersignatures next to the
    bundle are read, and those given. Memory does not grow with the files. Raises SigningKeyError
    when ``public_key`` is not a key.
    """
    trusted = _collect_trusted(public_key, key_dir, trust_dir)
    wanted = expected or Expected(content_digest=expected_content_digest)
    if is_archive(path):
        inventory = take_archive_inventory(path, _kept_limit)
    elif any(_is_file(path / name) for name in (ATTESTATION_FILE, BUNDLE_FILE)):
        inventory = take_inventory(path, _kept_limit)
    else:
        return _not_a_bundle(path, f"holds neither {ATTESTATION_FILE} nor {BUNDLE_FILE}")
    report = judge(path, inventory, trusted, wanted)
    if report.verdict is Verdict.NOT_A_BUNDLE:
        return report
    return _add_countersignatures(report, [*find_summaries(path), *countersignatures], trusted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the caller knows of the right bundle; None where nothing.

    ``content_digest`` names the result, ``attestation_sha256`` the very bundle. ``ignore_modes``
    makes changed permissions a warning, for file systems that keep none.
    """

    content_digest: str | None = None
    attestation_sha256: str | None = None
    ignore_modes: bool = False


NOTHING_EXPECTED = Expected()


def judge(
    path: Path,
    inventory: Inventory,
    trusted: TrustedKeys,
    expected: Expected = NOTHING_EXPECTED,
) -> VerifyReport:
    """All checks on what was found; ``path`` is only named in the report."""
    attestation = read_attestation(inventory.kept.get(ATTESTATION_FILE))
    # In either place: the two files may have been swapped.
    places = (BUNDLE_FILE, ATTESTATION_FILE)
    is_ours = any(is_our_bundle_file(inventory.kept.get(name)) for name in places)
    if attestation.statement is None and not is_ours:
        return _not_a_bundle(path, f"holds no {BUNDLE_FILE} of an audit bundle", attestation)
    found_digest = recompute_content_digest(inventory.digests)
    findings = [*attestation.findings, *inventory.findings]
    findings.extend(warning("trust-folder", problem) for problem in trusted.problems)
    known_origin = False
    keys: Mapping[str, PublicKey] = trusted.keys
    if attestation.envelope is not None:
        pem = inventory.kept.get(PUBLIC_KEY_FILE)
        origin = check_origin(attestation.envelope, pem, trusted.keys)
        known_origin = origin.trusted
        findings.extend(origin.findings)
        if origin.key is not None:
            keys = {**keys, origin.key.key_id: origin.key}
    findings.extend(_check_statement(attestation, inventory, found_digest, expected, keys))
    root_sha256 = inventory.digests.get(ATTESTATION_FILE)
    findings.extend(_check_expected(expected, found_digest, root_sha256))
    return VerifyReport(
        path=path,
        verdict=_decide(findings, known_origin=known_origin),
        findings=tuple(findings),
        content_digest=found_digest,
        key_id=attestation.key_id,
        claims=_read_claims(attestation, inventory),
        checks={"files": len(inventory.digests), "bytes": inventory.size_bytes},
        attestation_sha256=root_sha256,
    )


def _check_expected(
    expected: Expected, content_digest: str | None, attestation_sha256: str | None
) -> Iterator[Finding]:
    if expected.content_digest not in (None, content_digest):
        text = (
            f"the content digest is {content_digest}, but {expected.content_digest} was asked for:"
            " this is another result, perhaps an older one"
        )
        yield error("other-bundle", text)
    if expected.attestation_sha256 not in (None, attestation_sha256):
        text = (
            f"its SHA-256 is {attestation_sha256}, but {expected.attestation_sha256} was asked for:"
            " this is another bundle, perhaps an older one"
        )
        yield error("other-bundle", text, ATTESTATION_FILE)


def _add_countersignatures(
    report: VerifyReport, paths: Sequence[Path], trusted: TrustedKeys
) -> VerifyReport:
    said: list[Countersignature] = []
    findings = list(report.findings)
    for path in dict.fromkeys(paths):
        found, problems = check_summary(
            path, report.attestation_sha256, report.content_digest, trusted.keys
        )
        findings.extend(problems)
        if found is not None:
            said.append(found)
    return replace(report, findings=tuple(findings), countersignatures=tuple(said))


def _collect_trusted(
    public_key: Path | None, key_dir: Path | None, trust_dir: Path | None
) -> TrustedKeys:
    if public_key is not None:
        key = load_public_key(public_key)
        return TrustedKeys(keys={key.key_id: key})
    own = read_own_key(key_dir)
    others = read_trusted_keys(trust_dir_of(key_dir) if trust_dir is None else trust_dir)
    return TrustedKeys(keys={**others.keys, **own.keys}, problems=(*own.problems, *others.problems))


def _kept_limit(name: str) -> int:
    """How many bytes of a file are kept to be read for what it says."""
    if name == ATTESTATION_FILE:
        return MAX_ATTESTATION_BYTES
    if name in (BUNDLE_FILE, PUBLIC_KEY_FILE):
        return MAX_FACT_FILE_BYTES
    if not is_fact_file(name):
        return 0
    return MAX_EPISODES_BYTES if name.endswith("/" + EPISODES_FILE) else MAX_FACT_FILE_BYTES


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _check_statement(
    attestation: Attestation,
    inventory: Inventory,
    found_digest: str | None,
    expected: Expected,
    keys: Mapping[str, PublicKey],
) -> Iterator[Finding]:
    statement = attestation.statement
    if statement is None:
        return
    yield from check_files(statement.subjects, inventory)
    severity = Severity.WARNING if expected.ignore_modes else Severity.ERROR
    yield from check_modes(statement, inventory, severity)
    yield from check_bundle_file(inventory.kept.get(BUNDLE_FILE), statement, found_digest)
    manifest = read_manifest(statement.predicate)
    yield from check_facts(inventory.kept, manifest)
    yield from check_registrations(
        inventory.kept, inventory.digests, manifest, attestation.key_id, keys
    )


def _read_claims(attestation: Attestation, inventory: Inventory) -> Claims:
    predicate = attestation.statement.predicate if attestation.statement else {}
    return read_claims(inventory.kept, predicate, read_manifest(predicate))


def _decide(findings: list[Finding], *, known_origin: bool) -> Verdict:
    errors = {finding.code for finding in findings if finding.severity is Severity.ERROR}
    if errors == {"format-unknown"}:
        return Verdict.NOT_A_BUNDLE
    if errors:
        return Verdict.NOT_INTACT
    return Verdict.TRUSTED if known_origin else Verdict.UNKNOWN_ORIGIN


def _not_a_bundle(path: Path, why: str, attestation: Attestation | None = None) -> VerifyReport:
    return VerifyReport(
        path=path,
        verdict=Verdict.NOT_A_BUNDLE,
        findings=(error("not-a-bundle", why), *(attestation.findings if attestation else ())),
        content_digest=None,
        key_id=None,
        claims=Claims(),
    )
