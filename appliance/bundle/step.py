"""One step of a run as a bundle records it: what went in, what came out, when.

Paths are those of the run, ``STEP/part/file``, so that a product of one step and a material of
another are the same file when path and digest agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A finished step. ``products`` and ``inputs`` map paths to SHA-256.

    ``upstream`` names the steps whose products it read; ``inputs`` are what it read besides them.
    Times are RFC 3339.
    """

    name: str
    products: Mapping[str, str]
    upstream: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    started_on: str | None = None
    finished_on: str | None = None

    @property
    def made(self) -> dict[str, str]:
        """The products that were not there before the step."""
        return {name: sha for name, sha in self.products.items() if name not in self.inputs}


def list_materials(step: Step, steps: Sequence[Step]) -> dict[str, str]:
    """All that ``step`` read: the products of its upstream steps, and its other inputs."""
    products = {other.name: other.made for other in steps}
    found: dict[str, str] = {}
    for name in step.upstream:
        found |= products[name]
    return {**found, **step.inputs}
