"""Where things lie in a bundle, and which file names one may hold.

```
BUNDLE/
  bundle.json                 format, name, content digest, levels claimed
  content/...                 deterministic: decides the content digest
  observed/...                times, host, logs, videos
  artifacts/...               large files such as checkpoints, when asked for
  attestations/model.sig      the OpenSSF model signature over every other file but the last
  attestations/in-toto/...    in-toto layout and links: each step read what the ones before made
  ro-crate-metadata.json      the bundle as a Provenance Run Crate
  VERIFY.md                   how to check all this with this program and with others
  public_key.pem              the signer's public key, for information; never trusted by itself
  attestation.sigstore.json   the signed root statement over every other file
```

A bundle is read on file systems that fold case, compose accents or forbid characters, so names are
printable ASCII without those characters and differ by more than case. That is checked before a
bundle is written; when one is verified, any other name is a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import ClassVar

from appliance.digest import tree_digest
from appliance.errors import ApplianceError

FORMAT_FAMILY = "plan-star-bundle-"
FORMAT = FORMAT_FAMILY + "v1"

BUNDLE_FILE = "bundle.json"
CONTENT = "content"
OBSERVED = "observed"
ARTIFACTS = "artifacts"
IN_TOTO = "attestations/in-toto"
MODEL_SIGNATURE_FILE = "attestations/model.sig"
SBOM_SUFFIX = ".cdx.json"
CRATE_FILE = "ro-crate-metadata.json"
INSTRUCTIONS_FILE = "VERIFY.md"
PUBLIC_KEY_FILE = "public_key.pem"
ATTESTATION_FILE = "attestation.sigstore.json"

# A bundle's files and folders all have these, whatever theirs were where they came from.
FILE_MODE = 0o644
FOLDER_MODE = 0o755

MAX_NAME_BYTES = 200
MAX_PATH_BYTES = 800
MAX_SHOWN_LENGTH = 4096
FORBIDDEN_CHARACTERS = frozenset('\\:*?"<>|')


class BundleContentError(ApplianceError):
    """A file cannot go into a bundle as it is: its name, its kind, or nothing there at all."""

    exit_code: ClassVar[int] = 24


def describe_name_fault(name: str) -> str | None:
    """Why the POSIX path ``name`` may not stand in a bundle; None when it may."""
    if len(name) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} characters"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return f"has a part {part!r}"
        if len(part) > MAX_NAME_BYTES:
            return f"has a part longer than {MAX_NAME_BYTES} characters"
        if not (part.isascii() and part.isprintable()) or FORBIDDEN_CHARACTERS & set(part):
            return "has a character that some file systems cannot hold"
        if part.strip() != part or part.endswith("."):
            return "has a part that begins or ends with a space, or ends with a dot"
    return None


def find_name_clashes(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of paths that a file system which folds case could not keep apart.

    Folders count: ``a/x`` and ``A/y`` clash. So do a file and a folder of one name. Empty only if
    no two of the paths clash; of many that do, each is named with one of the others.
    """
    ordered = sorted(set(names), key=clash_order)
    pairs = ((find_clash(first, second), second) for first, second in pairwise(ordered))
    return [(first, second) for first, second in pairs if first is not None]


def clash_order(name: str) -> tuple[str, str]:
    """A sorting key: of paths that clash some are neighbours in this order.

    What lies in one folder, however that is spelled, is not parted by anything else.
    """
    return name.casefold().replace("/", "\0"), name


def find_clash(first: str, second: str) -> str | None:
    """The part of path ``first`` that cannot be kept apart from ``second``; None if all can."""
    one, other = first.split("/"), second.split("/")
    for depth, (part, match) in enumerate(zip(one, other, strict=False), start=1):
        if part.casefold() != match.casefold():
            return None
        if part != match or (depth == len(one)) != (depth == len(other)):
            return "/".join(one[:depth])
    return None


def content_digest(digests: Mapping[str, str]) -> str:
    """The identity of a result: tree digest of the files below ``content/``, named from there.

    ``digests`` maps bundle paths to SHA-256; other paths do not count. Raises ValueError for a
    name that is not Unicode.
    """
    prefix = CONTENT + "/"
    return tree_digest(
        {name[len(prefix) :]: digest for name, digest in digests.items() if name.startswith(prefix)}
    )


def show_name(name: str) -> str:
    """``name`` for a terminal: what is not printable is an escape, an overlong end is cut."""
    if len(name) > MAX_SHOWN_LENGTH:
        name = name[:MAX_SHOWN_LENGTH] + "..."
    if name.isprintable():
        return name
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in name
    )
