"""The claim that R4 and R5 judge: of a bundle the one that was signed before training.

What a bundle's manifest claims may have been written when the result was known; so may the
evaluation that it is claimed of, which decides nothing in training. A golden manifest is written
beforehand by its nature: nothing but the manifest declares its claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.bundle.preregistration import evaluation_of, find_registration
from appliance.manifest.difference import changed_fields
from appliance.manifest.model import Manifest, SuccessRatePart

NOTHING_DECLARED = "no margin was declared before training (expect.success_rate)"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredClaim:
    """The claim to judge, or None and why there is none, a sentence without a final point."""

    claim: SuccessRatePart | None
    why: str = ""


def claim_of_manifest(manifest: Manifest) -> DeclaredClaim:
    """What the manifest itself declares."""
    claim = None if manifest.expect is None else manifest.expect.success_rate
    return DeclaredClaim(claim=claim, why="" if claim else NOTHING_DECLARED)


def claim_of_bundle(manifest: Manifest, signed: Mapping[str, Any], root: Path) -> DeclaredClaim:
    """What was registered for the intact bundle in ``root``, if its manifest says the same.

    ``signed`` is the manifest as the bundle's statement holds it, ``manifest`` the one made of it.
    """
    found, said = find_registration(root), claim_of_manifest(manifest)
    registered = None if found is None else found.claim
    written = None if said.claim is None else asdict(said.claim)
    if registered != written:
        stands = f"the manifest says {_show(written)}, registered was {_show(registered)}"
        return DeclaredClaim(claim=None, why=f"not declared before training: {stands}")
    if found is None or written is None:
        return said
    before, now = ({"eval": evaluation_of(value)} for value in (found.manifest, signed))
    changes = [path for path, _, _ in changed_fields(before, now)]
    if not changes:
        return said
    stands = f"the evaluation was registered otherwise ({', '.join(changes[:4])})"
    return DeclaredClaim(claim=None, why=f"not declared before training: {stands}")


def _show(claim: Mapping[str, Any] | None) -> str:
    if claim is None:
        return "nothing"
    return f"{claim.get('value')} within {claim.get('margin')} (alpha {claim.get('alpha')})"
