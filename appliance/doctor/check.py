"""What one look at the machine found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class Purpose(StrEnum):
    """What the machine is to do: ``run`` on the host, ``docker`` in containers, ``gpu`` too.

    GPUs are handed out by the container engine only, so that ``gpu`` needs all of ``docker``.
    """

    VERIFY = "verify"
    RUN = "run"
    DOCKER = "docker"
    GPU = "gpu"


NEEDS: Mapping[Purpose, frozenset[Purpose]] = MappingProxyType(
    {
        Purpose.VERIFY: frozenset({Purpose.VERIFY}),
        Purpose.RUN: frozenset({Purpose.VERIFY, Purpose.RUN}),
        Purpose.DOCKER: frozenset({Purpose.VERIFY, Purpose.DOCKER}),
        Purpose.GPU: frozenset({Purpose.VERIFY, Purpose.DOCKER, Purpose.GPU}),
    }
)
"""The purposes whose checks a purpose requires."""


class Status(StrEnum):
    """``note``: not as it should be, but nothing fails for it."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found, in a few words, and how to put it right (None: nothing to do)."""

    status: Status
    found: str
    fix: str | None = None


def good(found: str) -> Finding:
    """All is well."""
    return Finding(status=Status.OK, found=found)


def note(found: str, fix: str | None = None) -> Finding:
    """Something to know."""
    return Finding(status=Status.NOTE, found=found, fix=fix)


def missing(found: str, fix: str) -> Finding:
    """It is not there, or does not work."""
    return Finding(status=Status.MISSING, found=found, fix=fix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One look: its name, for which purposes its absence is fatal, and how to look.

    ``look`` may raise OSError, ValueError or ApplianceError; that is a finding too.
    """

    name: str
    needed_for: frozenset[Purpose]
    look: Callable[[], Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A check that was made; ``required`` says that the purpose cannot do without it."""

    name: str
    required: bool
    finding: Finding

    @property
    def is_fatal(self) -> bool:
        """Whether the purpose fails for it."""
        return self.required and self.finding.status is Status.MISSING

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "name": self.name,
            "status": self.finding.status.value,
            "required": self.required,
            "found": self.finding.found,
            "fix": self.finding.fix,
        }
