"""What is signed before training starts: the manifest with its claim, as an input of the training.

The chain writes it into the training stage's folder before it starts the stage. From there it is
listed in the stage's receipt, goes into the cache and into the bundle with the trained result, and
is never written anew for work that has begun.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.bundle.keys import SigningKey
from appliance.bundle.preregistration import PREREGISTRATION_FILE, sign_preregistration
from appliance.files import write_atomic
from appliance.manifest.lock import Lock
from appliance.manifest.model import Manifest
from appliance.stages.definition import OBSERVED
from appliance.stages.receipt import Receipt

DECLARED_STAGE = "train"
DECLARATION = f"{OBSERVED}/{PREREGISTRATION_FILE}"


def declare_before_training(
    place: Path,
    manifest: Manifest,
    lock: Lock,
    results: Mapping[str, Receipt],
    signer: Callable[[], SigningKey],
) -> None:
    """Sign the manifest and its claim into the training stage's folder, which has not begun.

    Work that began without a declaration gets none: it would not be true. Raises SigningKeyError
    and StorageError.
    """
    if _has_begun(place):
        return
    moment = datetime.datetime.now(datetime.UTC)
    data = sign_preregistration(
        manifest=manifest.as_dict(),
        lock=lock.to_dict(),
        upstream={name: receipt.content_digest for name, receipt in results.items()},
        registered_on=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        key=signer(),
    )
    write_atomic(place / DECLARATION, data, doing="declaring the claim before training")


def _has_begun(place: Path) -> bool:
    """Whether anything but what a killed write left lies there."""
    return place.is_dir() and any(
        path.is_file() and not (path.name.startswith(".") and path.name.endswith(".tmp"))
        for path in place.rglob("*")
    )
