"""Parameters on disk, as openpi lays them out: orbax, item ``{"params": tree}``, leaves "value".

A checkpoint is read against the shapes the configuration expects; every missing, extra or wrongly
shaped leaf is named. A leaf's digest is SHA-256 over its type, shape and little-endian bytes in row
order, so that it does not depend on how orbax cuts or compresses files.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from numpy.typing import NDArray

from appliance.digest import sha256_json
from appliance.errors import CheckpointError
from appliance.files import atomic_folder, storage_errors
from appliance.policy.parameters import Params, flatten_params, nest_params

ITEM_NAME = "params"
LEAF_NAME = "value"
NAMES_SHOWN = 8

Shape = tuple[int, ...]


def open_checkpointer() -> Any:
    """Orbax's checkpointer, to be closed (``with``).

    Among several processes it works in this one alone and waits for no other.
    """
    if jax.process_count() == 1:
        return ocp.PyTreeCheckpointer()
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def save_params(params_dir: Path, params: Params) -> None:
    """Write ``params`` to the folder ``params_dir``, whole or not at all. Raises StorageError."""
    arrays = {path: np.asarray(leaf) for path, leaf in flatten_params(params).items()}
    tree = nest_params({f"{path}/{LEAF_NAME}": leaf for path, leaf in arrays.items()})
    params_dir = params_dir.absolute()
    with atomic_folder(params_dir) as temporary:
        target = temporary / "item"
        with storage_errors(params_dir, "writing parameters"), open_checkpointer() as writer:
            writer.save(target, {ITEM_NAME: tree})
        with storage_errors(params_dir, "writing parameters"):
            for entry in list(target.iterdir()):
                entry.rename(temporary / entry.name)
            target.rmdir()


def load_params(params_dir: Path, expected: Params, *, may_miss: Sequence[str] = ()) -> Params:
    """Read ``params_dir`` into NumPy arrays, checked against ``expected`` before numbers are read.

    ``expected``: nested dict of arrays or ``jax.ShapeDtypeStruct`` (``abstract_params``). Leaves
    whose path matches a pattern of ``may_miss`` (full match) may be missing; they are left out of
    the result. Types are kept as stored. Raises CheckpointError.
    """

    def check(found: Mapping[str, Shape]) -> None:
        wanted = {path: tuple(leaf.shape) for path, leaf in flatten_params(expected).items()}
        check_shapes(params_dir, found, wanted, may_miss=may_miss)

    return nest_params(read_leaves(params_dir, check))


def check_shapes(
    where: Path,
    found: Mapping[str, Shape],
    wanted: Mapping[str, Shape],
    *,
    may_miss: Sequence[str] = (),
) -> None:
    """Compare the leaves found in ``where`` with those wanted, by path and shape.

    Raises CheckpointError naming every missing, extra and wrongly shaped leaf (at most
    ``NAMES_SHOWN`` of a kind).
    """
    missing = [
        path
        for path in sorted(wanted.keys() - found.keys())
        if not any(re.fullmatch(pattern, path) for pattern in may_miss)
    ]
    shapes = [
        f"{path} {found[path]} instead of {wanted[path]}"
        for path in sorted(wanted.keys() & found.keys())
        if found[path] != wanted[path]
    ]
    problems = [
        _list_names(title, names)
        for title, names in (
            ("missing", missing),
            ("not part of this model", sorted(found.keys() - wanted.keys())),
            ("of another shape", shapes),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{where}: these parameters do not fit the configuration: {'; '.join(problems)}."
            " Use the checkpoint of this configuration, or the configuration it was made with."
        )


def read_leaves(
    params_dir: Path, check: Callable[[Mapping[str, Shape]], None] = lambda _: None
) -> dict[str, NDArray[Any]]:
    """All leaves of an orbax ``params`` folder by path, as NumPy arrays.

    ``check`` sees the shapes by path first and may raise. Raises CheckpointError.
    """
    params_dir = params_dir.absolute()
    if not params_dir.is_dir():
        raise CheckpointError(
            f"{params_dir}: there is no checkpoint here. Check the path, or train first."
        )
    if (params_dir / ITEM_NAME).is_dir():
        raise CheckpointError(
            f"{params_dir}: this is the folder of a checkpoint step, not of its parameters. Point"
            f" to {params_dir / ITEM_NAME}."
        )
    with open_checkpointer() as reader:
        with _reading(params_dir):
            described = reader.metadata(params_dir).item_metadata.tree
            shapes = jax.tree.map(lambda leaf: tuple(leaf.shape), described)
        check(_strip_leaf_names(params_dir, shapes))
        with _reading(params_dir):
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), described)
            tree = reader.restore(params_dir, restore_args=as_numpy)
    leaves = _strip_leaf_names(params_dir, tree)
    return {path: np.asarray(leaf) for path, leaf in leaves.items()}


@contextlib.contextmanager
def _reading(params_dir: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(
            f"{params_dir}: not a readable checkpoint ({_first_line(error)}). It is damaged or of"
            " another kind; use another checkpoint, or train again."
        ) from error


def _strip_leaf_names(params_dir: Path, tree: Any) -> dict[str, Any]:
    """The leaves of item ``params`` by path, without the "value" that openpi's paths end in."""
    if not isinstance(tree, Mapping) or not isinstance(tree.get(ITEM_NAME), Mapping):
        raise CheckpointError(
            f"{params_dir}: the checkpoint has no item '{ITEM_NAME}'. Point to the folder"
            f" '{ITEM_NAME}' of a checkpoint step."
        )
    suffix = f"/{LEAF_NAME}"
    leaves = flatten_params(tree[ITEM_NAME])
    return {path.removesuffix(suffix): leaf for path, leaf in leaves.items()}


def digest_leaf(leaf: Any) -> str:
    """SHA-256 of a line with type and shape and the leaf's little-endian bytes in row order."""
    array = np.asarray(leaf)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    shape = "x".join(str(size) for size in array.shape)
    hasher = hashlib.sha256(f"{array.dtype.name} {shape}\n".encode("ascii"))
    hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()


def digest_leaves(params: Mapping[str, Any]) -> dict[str, str]:
    """The digest of every leaf, by path."""
    return {path: digest_leaf(leaf) for path, leaf in flatten_params(params).items()}


def params_digest(digests: Mapping[str, str]) -> str:
    """``sha256-leaves-v1:`` of :func:`digest_leaves`: one figure for a set of parameters."""
    return "sha256-leaves-v1:" + sha256_json(dict(digests))


def _list_names(title: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{title}: {shown}{more}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
