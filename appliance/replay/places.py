"""Where a replay finds what a manifest names by path: data, weights, a RoboTwin checkout.

A bundle's own paths are those of the machine it was made on. Those of data are only tried, unless
the user says where they lie: what lies there is compared with its digest. A checkout is code, and
its interpreter is started before anything could be compared, so that of a bundle neither is ever
taken: the user names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.digest import canonical_json, sha256_file
from appliance.errors import CheckpointError, NormStatsError
from appliance.manifest.load import parse_manifest
from appliance.manifest.model import Manifest
from appliance.norm_stats.files import find_norm_stats, read_norm_stats
from appliance.policy.tokenizer import check_tokenizer_digest
from appliance.stages.manifest import KNOWN_NAMES
from appliance.stages.pins import check_weights_form, named_files

NOWHERE = "not-named"
"""In the place of a path that was not named: below the replay's own folder, where nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What the user said of where things are; None where nothing was said.

    ``init`` are the weights that training starts from, ``norm_stats`` the statistics to reuse;
    ``checkout`` is a RoboTwin checkout, ``checkout_python`` the interpreter it is played with.
    """

    dataset_root: Path | None = None
    init: Path | None = None
    tokenizer: Path | None = None
    norm_stats: Path | None = None
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

    The dataset lies at ``root``, or where the manifest says; all else where the user says, or the
    manifest. Raises ManifestError.
    """
    value = dict(value)
    data, norm_stats, train, evaluation = (
        dict(_part(value, key)) for key in ("dataset", "norm_stats", "train", "eval")
    )
    data["root"] = str((base / str(root or data.get("root") or "no-dataset")).resolve())
    if norm_stats.get("mode") == "reuse":
        norm_stats["path"] = str(places.norm_stats or base / str(norm_stats.get("path", NOWHERE)))
    for key, name, place in (
        ("init", "checkpoint", places.init),
        ("tokenizer", "path", places.tokenizer),
    ):
        named = train.get(key)
        if isinstance(named, Mapping):
            train[key] = {**named, name: str(place or base / str(named.get(name, NOWHERE)))}
    checkout = evaluation.get("checkout")
    if isinstance(checkout, Mapping):
        placed = _place_names(checkout, ("path", "python"), base)
        own = {"path": places.checkout, "python": places.checkout_python}
        given = {name: str(path) for name, path in own.items() if path is not None}
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


def describe_absent(manifest: Manifest) -> str | None:
    """Which file that training reads is not at hand, and how to name it; None when all are.

    Weights are many gigabytes: only presence and form are looked at, training compares the digest.
    """
    named, train = named_files(manifest), manifest.train
    checks = (
        ("train.init.checkpoint", "--init", train.init, check_weights_form),
        ("train.tokenizer.path", "--tokenizer", train.tokenizer, check_tokenizer_digest),
    )
    for key, option, part, check in checks:
        if part is None:
            continue
        try:
            check(named[key], part.sha256)
        except CheckpointError:
            is_there = "is not what is pinned" if named[key].exists() else "is not on this machine"
            return f"{key}: {named[key]} {is_there}; name your copy with {option}"
    return None


def describe_other_norm_stats(manifest: Manifest, sha256: str | None) -> str | None:
    """Why the statistics to reuse are not the original's; None when they are, or none are reused.

    ``sha256`` is that of the original's file, None where it is not known.
    """
    path = named_files(manifest).get("norm_stats.path")
    if path is None:
        return None
    advice = "name your copy of the original's with --norm-stats"
    try:
        if sha256 is None:
            read_norm_stats(path)
            return None
        found = sha256_file(find_norm_stats(path))
    except NormStatsError:
        return f"norm_stats.path: there are no statistics to reuse at {path}; {advice}"
    if found == sha256:
        return None
    return f"norm_stats.path: {path} has SHA-256 {found}, the original's had {sha256}; {advice}"


def _place_names(part: Mapping[str, Any], names: tuple[str, ...], base: Path) -> dict[str, Any]:
    """``part`` with the paths under ``names`` counted from ``base``; a bare name stays one."""
    placed = {name: str(base / str(part[name])) for name in names if "/" in str(part.get(name))}
    return {**part, **placed}


def _part(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = value.get(key)
    return part if isinstance(part, Mapping) else {}
