"""The outcome of a check as text for a person and as JSON values for a machine.

All text that comes out of a bundle is made safe to print.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from appliance.bundle.findings import (
    Claims,
    Countersignature,
    Finding,
    Severity,
    Verdict,
    VerifyReport,
)
from appliance.bundle.layout import ATTESTATION_FILE, BUNDLE_FILE, show_name

MAX_SHOWN_FINDINGS = 40
ROBOTWIN_PARTS = ("aloha-agilex", "curobo", "rt")


def report_to_dict(report: VerifyReport) -> dict[str, Any]:
    """The report as JSON values; all text in it is safe to print."""
    claims = {
        name: _safe(getattr(report.claims, name)) for name in report.claims.__dataclass_fields__
    }
    return {
        "path": show_name(str(report.path)),
        "verdict": report.verdict.value,
        "exit_code": report.exit_code,
        "intact": report.intact,
        "trusted": report.trusted,
        "content_digest": report.content_digest,
        "attestation_sha256": report.attestation_sha256,
        "key_id": _safe(report.key_id),
        "checked": dict(report.checks),
        "claims": claims,
        "countersignatures": [_countersignature_to_dict(c) for c in report.countersignatures],
        "findings": [
            {
                "severity": finding.severity.value,
                "code": finding.code,
                "path": finding.path,
                "message": finding.message,
            }
            for finding in report.findings
        ],
    }


def format_report(report: VerifyReport) -> str:
    """The report as text for a person: verdict, findings, claims, and what was checked."""
    lines = [f"{_VERDICT_TITLES[report.verdict]}: {show_name(str(report.path))}"]
    lines.extend(textwrap.wrap(_VERDICT_TEXTS[report.verdict], 98))
    findings = sorted(report.findings, key=lambda finding: finding.severity is not Severity.ERROR)
    if findings:
        lines += ["", f"Findings ({len(findings)})"]
        lines.extend(_format_finding(finding) for finding in findings[:MAX_SHOWN_FINDINGS])
        if len(findings) > MAX_SHOWN_FINDINGS:
            lines.append(f"  ... and {len(findings) - MAX_SHOWN_FINDINGS} more (--json has all)")
    if report.verdict is not Verdict.NOT_A_BUNDLE:
        lines += ["", f"What it says of its run ({_CLAIM_REMARKS[report.verdict]})"]
        lines.extend(f"  {name:<15} {text}" for name, text in describe_claims(report.claims))
        lines.extend(_format_countersignatures(report))
        lines += ["", "What was checked", *(f"  {line}" for line in _describe_checks(report))]
    return "\n".join(lines)


def describe_claims(claims: Claims) -> list[tuple[str, str]]:
    """The claims as (label, text) rows for a person; absent ones are left out."""
    setting = [claims.embodiment, claims.planner, claims.shader]
    rows = [
        ("run", claims.name),
        ("dataset", claims.dataset_repo_id),
        ("fingerprint", claims.dataset_fingerprint),
        ("plan", claims.plan_sha256),
        ("task", claims.task),
        ("success", _describe_success(claims)),
        ("declared", claims.declared),
        ("measured with", _describe_setting(setting) if any(setting) else None),
        ("levels", ", ".join(claims.levels) or None),
        ("finished", claims.finished_on),
    ]
    return [(label, show_name(text)) for label, text in rows if text]


_VERDICT_TITLES = {
    Verdict.TRUSTED: "INTACT, SIGNER TRUSTED",
    Verdict.UNKNOWN_ORIGIN: "INTACT, OF UNKNOWN ORIGIN",
    Verdict.NOT_INTACT: "NOT INTACT",
    Verdict.NOT_A_BUNDLE: "NOT A BUNDLE",
}
_VERDICT_TEXTS = {
    Verdict.TRUSTED: "Every file is exactly what was signed, and you trust the key that signed it."
    " The key lay on the machine of the run (SLSA Build L1): this shows that nothing changed since"
    " signing, not that the run was done honestly. A replay shows that.",
    Verdict.UNKNOWN_ORIGIN: "Every file is exactly what was signed, but you do not trust the key"
    " that signed it: anybody could have made this bundle. Get the signer's public key from the"
    " signer, not from the bundle, and verify with --key, or trust it for good with"
    " `appliance keys trust`.",
    Verdict.NOT_INTACT: "This is not what was signed, or its parts contradict each other; the"
    " findings name each place. Do not use its figures. Get the bundle again from its author.",
    Verdict.NOT_A_BUNDLE: "There is no audit bundle here that this version can read. Give the"
    f" folder that holds {BUNDLE_FILE} and {ATTESTATION_FILE}, or its archive.",
}


_CLAIM_REMARKS = {
    Verdict.TRUSTED: "signed, not re-computed",
    Verdict.UNKNOWN_ORIGIN: "signed by a key you do not trust, not re-computed",
    Verdict.NOT_INTACT: "not what was signed: do not use it",
}


def _countersignature_to_dict(item: Countersignature) -> dict[str, Any]:
    return {
        "path": show_name(str(item.path)),
        "key_id": _safe(item.key_id),
        "trusted": item.trusted,
        "result": _safe(item.result),
        "levels": _safe(item.levels),
        "verified_on": _safe(item.verified_on),
        "replay": item.replay,
    }


def _format_countersignatures(report: VerifyReport) -> Iterator[str]:
    if not report.countersignatures:
        return
    yield ""
    yield "Countersignatures next to it"
    for item in report.countersignatures:
        checked = "trusted" if item.trusted else "you do not trust this key: not checked"
        levels = f" for {', '.join(item.levels)}" if item.levels else ""
        text = (
            f"{item.result}{levels} by {item.key_id} ({checked}), {item.verified_on or 'undated'}"
        )
        verdict = item.replay.get("verdict") if item.replay else None
        if isinstance(verdict, str):
            text += f"; replay: {verdict}"
        yield f"  {show_name(text)}"


def _safe(value: object) -> Any:
    if isinstance(value, str):
        return show_name(value)
    if isinstance(value, tuple):
        return [_safe(item) for item in value]
    return value


def _format_finding(finding: Finding) -> str:
    where = f"{finding.path}: " if finding.path else ""
    return f"  {finding.severity.value:<8} {finding.code:<20} {where}{finding.message}"


def _describe_success(claims: Claims) -> str | None:
    if claims.success_rate is None or claims.episodes is None:
        return None
    text = f"{claims.success_rate:.1%} of {claims.episodes} episodes"
    if claims.success_interval:
        low, high = claims.success_interval
        text += f" (interval {low:.1%} to {high:.1%})"
    return text


def _describe_setting(setting: list[str | None]) -> str:
    text = ", ".join(part or "not said" for part in setting)
    if tuple(setting) == ROBOTWIN_PARTS:
        return f"{text} (embodiment, planner, shader)"
    return f"{text} (embodiment, planner, shader): not a RoboTwin score"


def _describe_checks(report: VerifyReport) -> Iterator[str]:
    checks = report.checks
    yield f"{checks.get('files', 0)} files, {checks.get('bytes', 0)} bytes, read and hashed"
    yield f"content digest  {report.content_digest or 'cannot be computed'}"
    yield f"attestation     {report.attestation_sha256 or 'none'}"
    label = "signed by" if report.intact else "key named"
    yield f"{label:<15} {show_name(report.key_id or 'none that can be read')}"
