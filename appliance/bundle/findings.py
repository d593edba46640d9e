"""What the check of a bundle says: findings, the verdict they lead to, and the claims it holds.

Every finding has a severity. An ``error`` means: this is not the bundle that was signed. A
``warning`` leaves the bundle intact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from appliance.errors import BundleNotIntactError, BundleUntrustedError, NotABundleError


class Severity(StrEnum):
    """How much a finding weighs."""

    ERROR = "error"
    WARNING = "warning"


class Verdict(StrEnum):
    """The outcome of a check, in one word; each has its own exit code."""

    TRUSTED = "trusted"
    UNKNOWN_ORIGIN = "unknown-origin"
    NOT_INTACT = "not-intact"
    NOT_A_BUNDLE = "not-a-bundle"

    @property
    def exit_code(self) -> int:
        """The exit code of ``appliance verify``."""
        return {
            Verdict.TRUSTED: 0,
            Verdict.UNKNOWN_ORIGIN: BundleUntrustedError.exit_code,
            Verdict.NOT_INTACT: BundleNotIntactError.exit_code,
            Verdict.NOT_A_BUNDLE: NotABundleError.exit_code,
        }[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found; ``path`` is a bundle path safe to print, or None for the whole."""

    severity: Severity
    code: str
    message: str
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a bundle says of its run. Nothing here was re-computed; None where it says nothing.

    ``success_interval`` is the interval the evaluation recorded, as fractions; ``declared`` is the
    claim that was signed before training.
    """

    name: str | None = None
    levels: tuple[str, ...] = ()
    dataset_repo_id: str | None = None
    dataset_fingerprint: str | None = None
    plan_sha256: str | None = None
    task: str | None = None
    embodiment: str | None = None
    planner: str | None = None
    shader: str | None = None
    episodes: int | None = None
    successes: int | None = None
    success_rate: float | None = None
    success_interval: tuple[float, float] | None = None
    declared: str | None = None
    started_on: str | None = None
    finished_on: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Countersignature:
    """What a reviewer signed about this very bundle, in a file next to it.

    Without a trusted key (``trusted`` False) the signature cannot be checked: anybody may have made
    it. ``replay`` is a replay's verdict with its evidence, as it was signed.
    """

    path: Path
    key_id: str
    trusted: bool
    result: str
    levels: tuple[str, ...]
    verified_on: str | None
    replay: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The outcome of :func:`appliance.bundle.verify.verify_bundle`.

    ``key_id`` is the key the signature names, valid or not. ``content_digest`` is recomputed from
    the files; None when that was not possible. ``attestation_sha256`` is the digest of the root
    attestation's file, which names every byte of the bundle. ``checks`` counts what was looked at.
    """

    path: Path
    verdict: Verdict
    findings: tuple[Finding, ...]
    content_digest: str | None
    key_id: str | None
    claims: Claims
    checks: Mapping[str, Any] = field(default_factory=dict)
    attestation_sha256: str | None = None
    countersignatures: tuple[Countersignature, ...] = ()

    @property
    def intact(self) -> bool:
        """Whether every file is what was signed."""
        return self.verdict in (Verdict.TRUSTED, Verdict.UNKNOWN_ORIGIN)

    @property
    def trusted(self) -> bool:
        """Whether it is intact and a trusted key signed it."""
        return self.verdict is Verdict.TRUSTED

    @property
    def exit_code(self) -> int:
        """The exit code of ``appliance verify``."""
        return self.verdict.exit_code


def error(code: str, message: str, path: str | None = None) -> Finding:
    """A finding that means: not intact."""
    return Finding(severity=Severity.ERROR, code=code, message=message, path=path)


def warning(code: str, message: str, path: str | None = None) -> Finding:
    """A finding that leaves the bundle intact."""
    return Finding(severity=Severity.WARNING, code=code, message=message, path=path)
