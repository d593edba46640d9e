"""What a manifest pins of its dataset and other files, compared with what lies there."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.errors import CheckpointError, DatasetError, ManifestError
from appliance.manifest.model import Manifest

if TYPE_CHECKING:
    from appliance.dataset.fingerprint import Fingerprint

TREE_PREFIX = "sha256-tree-v1:"


def dataset_root(manifest: Manifest) -> Path:
    """Where the dataset lies; a relative ``dataset.root`` counts from the manifest's folder."""
    return _find(manifest, manifest.dataset.root)


def named_files(manifest: Manifest) -> dict[str, Path]:
    """The files and folders beside the dataset that a manifest names, by the key that names them.

    Relative ones count from the manifest's folder; links are followed, so that this is where the
    bytes lie. These are what a stage needs to be shown where it sees nothing else of the host.
    """
    norm_stats, train, checkout = manifest.norm_stats, manifest.train, manifest.eval.checkout
    written = {
        "norm_stats.path": norm_stats.path,
        "train.init.checkpoint": None if train.init is None else train.init.checkpoint,
        "train.tokenizer.path": None if train.tokenizer is None else train.tokenizer.path,
        "eval.checkout.path": None if checkout is None else checkout.path,
    }
    return {key: _find(manifest, path) for key, path in written.items() if path is not None}


def _find(manifest: Manifest, written: str) -> Path:
    """The real place of a path in the manifest; a link that leads in a circle stays as it is."""
    return Path(os.path.realpath(manifest.base_dir / written))


def places_for_stages(manifest: Manifest) -> dict[str, Path]:
    """Where stages find what a manifest names, by key: the files, and a checkout's interpreter.

    Found out once, where the run begins: in a container neither the manifest's folder nor a link on
    the way exists. An interpreter stays the link it mostly is: by its place it knows its packages.
    """
    places = named_files(manifest)
    checkout = manifest.eval.checkout
    if checkout is not None:
        python = manifest.base_dir / checkout.python
        places["eval.checkout.python"] = Path(os.path.realpath(python.parent)) / python.name
    return places


def refuse_secrets(manifest: Manifest, secrets: Iterable[Path]) -> None:
    """See that a manifest names nothing of ``secrets`` (``bundle.keys.secret_places``).

    A stage on the host could read it. Raises ManifestError naming the key.
    """
    named = {"dataset.root": dataset_root(manifest), **places_for_stages(manifest)}
    for secret in secrets:
        for key, path in named.items():
            if path.is_relative_to(secret):
                raise ManifestError(
                    f"{key}: {path} lies in {secret}, which holds what signs this user's bundles"
                    f" ({manifest.source_path}). No stage may read it: name another file, and ask"
                    " who wrote the manifest."
                )


def without_place(named: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A part that names a file, reduced to what decides a result: its digest."""
    return None if named is None else {"sha256": named["sha256"]}


def norm_stats_without_place(part: Mapping[str, Any]) -> dict[str, Any]:
    """``norm_stats`` without the place of a file to reuse, whose digest the lock holds."""
    return {name: value for name, value in part.items() if name != "path" or value is None}


def check_weights_form(path: Path, sha256: str) -> None:
    """See that weights are there and pinned in the form that fits. Raises CheckpointError."""
    if not path.exists():
        raise CheckpointError(
            f"train.init.checkpoint: {path} is missing. Check the path; weights are files you"
            " supply."
        )
    if path.is_dir() == sha256.startswith(TREE_PREFIX):
        return
    form = f"by `{TREE_PREFIX}` and its tree digest" if path.is_dir() else "by its plain SHA-256"
    raise CheckpointError(
        f"train.init.sha256: {path} is a {'folder' if path.is_dir() else 'file'}, which is pinned"
        f" {form}. Correct the digest, or name what it belongs to."
    )


def check_fingerprint(
    manifest: Manifest, root: Path, fingerprint: Fingerprint, media: str | None
) -> None:
    """Compare the dataset's figures with the pinned ones. Raises DatasetError naming both."""
    pinned = manifest.dataset.fingerprint
    if pinned != fingerprint.value:
        raise DatasetError(_mismatch("fingerprint", manifest, root, pinned, fingerprint.value))
    pinned_media = manifest.dataset.media
    if pinned_media is not None and media is not None and pinned_media != media:
        raise DatasetError(_mismatch("media", manifest, root, pinned_media, media))


def _mismatch(key: str, manifest: Manifest, root: Path, pinned: str, found: str) -> str:
    return (
        f"dataset.{key}: the dataset in {root} is not the one this manifest was written for.\n"
        f"  pinned: {pinned}\n  found:  {found}\n"
        f"Use the original dataset, or, if the change is meant, put the found value into"
        f" {manifest.source_path} as dataset.{key}."
    )


def media_figure(root: Path) -> str | None:
    """The media figure; None when the video library of the full installation is absent."""
    if importlib.util.find_spec("av") is None:
        return None
    from appliance.dataset.media import media_fingerprint

    figure = media_fingerprint(root)
    return None if figure is None else figure.value
