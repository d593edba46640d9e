"""Where a replay finds what a manifest names by path: data, weights, a RoboTwin checkout.

A bundle's own paths are those of the machine it was made on. Those of data are only tried: what
lies there is compared with its digest. A checkout is code, and its interpreter is started before
anything could be compared, so that of a bundle neither is ever taken: the user names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.digest import canonical_json
from appliance.manifest.load import parse_manifest
from appliance.manifest.model import Manifest
from appliance.stages.manifest import KNOWN_NAMES

NOWHERE = "not-named"
"""In the place of a path that was not named: below the replay's own folder, where nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What the user said of where things are; None where nothing was said.

    ``checkout`` is a RoboTwin checkout, ``checkout_python`` the interpreter it is played with.
    """

    dataset_root: Path | None = None
    artifacts: Path | None = None
    checkout: Path | None = None
    checkout_python: Path | None = None
    public_key: Path | None = None
    key_dir: Path | None = None

    @property
    def name_checkout(self) -> bool:
        """Whether everything that a checkout needs was named."""
        return self.checkout is not None and self.checkout_python is not None


def place_manifest(
    value: Mapping[str, Any], source: Path, places: Places, *, root: Path | None, base: Path
) -> Manifest:
    """The manifest ``value`` with every path absolute, counted from ``base``.

    The dataset lies at ``root``, or where the manifest says; a checkout where the user says, or
    the manifest. Raises ManifestError.
    """
    value = dict(value)
    data, norm_stats, train, evaluation = (
        dict(_part(value, key)) for key in ("dataset", "norm_stats", "train", "eval")
    )
    data["root"] = str((base / str(root or data.get("root") or "no-dataset")).resolve())
    if norm_stats.get("path"):
        norm_stats["path"] = str(base / str(norm_stats["path"]))
    for part, key, names in ((train, "init", ("checkpoint",)), (train, "tokenizer", ("path",))):
        if isinstance(part.get(key), Mapping):
            part[key] = _place_names(part[key], names, base)
    checkout = evaluation.get("checkout")
    if isinstance(checkout, Mapping):
        placed = _place_names(checkout, ("path", "python"), base)
        named = {"path": places.checkout, "python": places.checkout_python}
        given = {name: str(path) for name, path in named.items() if path is not None}
        evaluation["checkout"] = placed | given
    value |= {"dataset": data, "norm_stats": norm_stats, "train": train, "eval": evaluation}
    return parse_manifest(canonical_json(value), source_path=source, known_names=KNOWN_NAMES)


def forget_checkout(value: Mapping[str, Any], lock: Mapping[str, Any]) -> dict[str, Any]:
    """A bundle's manifest without the places of its checkout; its pinned tree stays.

    Where the manifest pins no tree, the one in the bundle's ``lock`` is pinned.
    """
    evaluation = dict(_part(value, "eval"))
    checkout = evaluation.get("checkout")
    if not isinstance(checkout, Mapping):
        return dict(value)
    tree = checkout.get("tree") or _part(lock, "files").get("eval.checkout.tree")
    evaluation["checkout"] = {**checkout, "path": NOWHERE, "python": NOWHERE, "tree": tree}
    return {**value, "eval": evaluation}


def _place_names(part: Mapping[str, Any], names: tuple[str, ...], base: Path) -> dict[str, Any]:
    """``part`` with the paths under ``names`` counted from ``base``; a bare name stays one."""
    placed = {name: str(base / str(part[name])) for name in names if "/" in str(part.get(name))}
    return {**part, **placed}


def _part(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = value.get(key)
    return part if isinstance(part, Mapping) else {}
