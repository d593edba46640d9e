"""Checkpoints on disk: kept ones in openpi's layout, and one resume point beside them.

A checkpoint folder holds ``params`` (what a policy server loads: the EMA where there is one),
``train_state`` (live parameters, optimizer, step), ``assets/<asset_id>/norm_stats.json`` and
``position.json`` (step, digest of the hash chain, digest of every leaf). It appears by a rename,
whole or not at all, so a kill while saving leaves the one before. Resume points have the same
form and are swept away when a newer checkpoint is there. Nothing is saved in the background.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from appliance.digest import sha256_json
from appliance.errors import CheckpointError, StorageError
from appliance.files import (
    atomic_folder,
    describe_os_error,
    read_json,
    storage_errors,
    write_atomic,
    write_json,
)
from appliance.policy.checkpoint import (
    digest_leaves,
    load_params,
    open_checkpointer,
    save_params,
)
from appliance.policy.parameters import flatten_params, nest_params
from appliance.training.step import TrainState

logger = logging.getLogger(__name__)

PARAMS = "params"
TRAIN_STATE = "train_state"
ASSETS = "assets"
POSITION_FILE = "position.json"
NORM_STATS_FILE = "norm_stats.json"
RESUME_FOLDER = ".resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a checkpoint stands.

    Finished updates, chain digest, leaf digests of ``params``, and one digest over everything a
    resumed run starts from.
    """

    step: int
    chain: str
    leaves: Mapping[str, str]
    state_digest: str
    folder: Path


class CheckpointFolder:
    """One run's checkpoints: ``folder/<step>`` are kept, ``folder/.resume/<step>`` come and go."""

    def __init__(self, folder: Path, *, asset_id: str, norm_stats_json: bytes) -> None:
        self.folder = folder.absolute()  # orbax takes no other
        self.resume_folder = self.folder / RESUME_FOLDER
        self.asset_id = asset_id
        self.norm_stats_json = norm_stats_json

    def save(self, state: TrainState, *, chain: str, kept: bool) -> Path:
        """Write ``state`` as checkpoint ``state.step``; returns its folder. Older resume points go.

        Every leaf is whole in this process. Raises StorageError; what was there before stays.
        """
        state = jax.device_get(state)
        step = int(state.step)
        target = (self.folder if kept else self.resume_folder) / str(step)
        served = nest_params(state.served)
        position = {
            "step": step,
            "chain": chain,
            "leaves": dict(digest_leaves(served)),
            "state_digest": digest_state(state),
        }
        with atomic_folder(target, doing=f"saving checkpoint {step}") as temporary:
            with saving_errors(target, f"saving checkpoint {step}"):
                save_params(temporary / PARAMS, served)
                with open_checkpointer() as checkpointer:
                    checkpointer.save(temporary / TRAIN_STATE, state_to_tree(state))
            write_atomic(self._statistics_path(temporary), self.norm_stats_json)
            write_json(temporary / POSITION_FILE, position)
        self._sweep(keep=None if kept else step)
        return target

    def positions(self) -> list[Position]:
        """Every whole checkpoint, kept or not, newest first; kept before resume point."""
        found = [*_positions(self.folder), *_positions(self.resume_folder)]
        return sorted(found, key=lambda position: -position.step)

    def kept_leaves(self) -> dict[str, dict[str, str]]:
        """Leaf digests of the kept checkpoints: {step: {leaf path: SHA-256}}."""
        found = sorted(_positions(self.folder), key=lambda position: position.step)
        return {str(position.step): dict(position.leaves) for position in found}

    def restore(self, position: Position, template: TrainState) -> TrainState:
        """The state of ``position``, bit for bit, in the form of ``template``, as NumPy arrays.

        Raises CheckpointError when anything in the folder is damaged or of another form.
        """
        where = position.folder
        served = flatten_params(load_params(where / PARAMS, nest_params(template.served)))
        with reading_errors(where), open_checkpointer() as checkpointer:
            tree = checkpointer.restore(where / TRAIN_STATE)
        state = tree_to_state(tree, served, template, where)
        wrong = {
            "training state": digest_state(state) != position.state_digest,
            "parameters or their digests": digest_leaves(served) != dict(position.leaves),
            "normalization statistics": self._read_statistics(where) != self.norm_stats_json,
        }
        changed = [name for name, is_wrong in wrong.items() if is_wrong]
        if changed:
            raise CheckpointError(
                f"{where}: its content is not what was saved ({', '.join(changed)}). Remove this"
                " folder; the run then goes on from the checkpoint before it."
            )
        return state

    def _read_statistics(self, where: Path) -> bytes | None:
        try:
            return self._statistics_path(where).read_bytes()
        except OSError:
            return None

    def _statistics_path(self, checkpoint: Path) -> Path:
        return checkpoint / ASSETS / self.asset_id / NORM_STATS_FILE

    def clear_resume_points(self) -> None:
        """Remove the resume points; the kept checkpoints stay."""
        shutil.rmtree(self.resume_folder, ignore_errors=True)

    def remove_leftovers(self) -> None:
        """Remove what a killed save left behind under a temporary name."""
        for folder in (self.folder, self.resume_folder):
            for pattern in (".*.tmp", ".*.old"):
                for path in folder.glob(pattern):
                    shutil.rmtree(path, ignore_errors=True)

    def _sweep(self, *, keep: int | None) -> None:
        if self.resume_folder.is_dir():
            for path in self.resume_folder.iterdir():
                if path.name != str(keep):
                    shutil.rmtree(path, ignore_errors=True)


def digest_state(state: TrainState) -> str:
    """One digest over every leaf of the training state, by path, type, shape and bytes."""
    leaves: dict[str, str] = {}
    for name in ("trained", "frozen", "average", "optimizer"):
        part = getattr(state, name)
        flat, _ = jax.tree_util.tree_flatten_with_path(part)
        tree = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}
        digests = digest_leaves(tree)
        leaves.update({f"{name}{path}": digest for path, digest in digests.items()})
    return sha256_json({"step": int(state.step), "leaves": leaves})


def state_to_tree(state: TrainState) -> dict[str, Any]:
    """What ``train_state`` holds: the live trained parameters, the optimizer's arrays, the step.

    Frozen leaves and the average are in ``params`` already.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(state.optimizer)
    optimizer = {"/".join(_key_parts(path)): np.asarray(leaf) for path, leaf in flat}
    return {
        "step": np.asarray(state.step),
        "params": nest_params(state.trained),
        "opt_state": nest_params(optimizer),
    }


def tree_to_state(
    tree: Mapping[str, Any], served: Mapping[str, Any], template: TrainState, where: Path
) -> TrainState:
    """The inverse of ``state_to_tree``, given the ``params`` beside it. Raises CheckpointError."""
    try:
        trained = flatten_params(tree["params"])
        stored = flatten_params(tree["opt_state"])
        flat, form = jax.tree_util.tree_flatten_with_path(template.optimizer)
        leaves = [_fit(stored["/".join(_key_parts(path))], leaf) for path, leaf in flat]
        average = None
        if template.average is not None:
            average = {path: served[path] for path in template.average}
        return TrainState(
            step=np.asarray(tree["step"], dtype=np.int32),  # type: ignore[arg-type]
            trained={path: _fit(trained[path], leaf) for path, leaf in template.trained.items()},
            frozen={path: served[path] for path in template.frozen},
            average=average,
            optimizer=jax.tree_util.tree_unflatten(form, leaves),
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{where}: its training state does not fit this model and optimizer ({error}). Use the"
            " train.config it was made with, or overwrite."
        ) from error


def _fit(value: Any, like: Any) -> Any:
    array = np.asarray(value, dtype=like.dtype)
    if array.shape != like.shape:
        raise ValueError(f"an array of shape {array.shape} where {like.shape} belongs")
    return array


def _key_parts(path: tuple[Any, ...]) -> Iterator[str]:
    for key in path:
        name = next(getattr(key, name) for name in ("key", "name", "idx") if hasattr(key, name))
        yield str(name)


@contextlib.contextmanager
def saving_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn what orbax raises for a full disk into StorageError."""
    try:
        with storage_errors(path, doing), quiet_orbax():
            yield
    except (ValueError, KeyError, TypeError) as error:
        if "RESOURCE_EXHAUSTED" in str(error) or os.strerror(errno.ENOSPC) in str(error):
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise StorageError(describe_os_error(full, path, doing)) from error
        raise StorageError(
            f"{path}: {doing} failed ({_first_line(error)}). Check the disk, then run the same"
            " command again; earlier checkpoints are kept."
        ) from error


@contextlib.contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Turn what orbax raises for missing or damaged files into CheckpointError."""
    try:
        with quiet_orbax():
            yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: the training state cannot be read ({_first_line(error)}). Remove this"
            " folder; the run then goes on from the checkpoint before it."
        ) from error


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Keep orbax from showing the traceback of an error that is raised as well.

    When one file of a checkpoint cannot be written, the writers of the others come back to an event
    loop that is gone, some of them after the error was raised; the hook for those stays then.
    """
    absl = logging.getLogger("absl")
    level, hook = absl.level, sys.unraisablehook

    def show(unraisable: sys.UnraisableHookArgs) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    absl.setLevel(logging.CRITICAL)
    sys.unraisablehook = show
    try:
        yield
        sys.unraisablehook = hook
    finally:
        absl.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _positions(folder: Path) -> Iterator[Position]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name.isdecimal() and (path / POSITION_FILE).is_file():
            try:
                yield _read_position(path)
            except (StorageError, TypeError) as error:
                logger.warning("%s: unreadable checkpoint left out (%s)", path, error)


def _read_position(path: Path) -> Position:
    position = Position(**read_json(path / POSITION_FILE), folder=path)
    if position.step != int(path.name) or not isinstance(position.leaves, Mapping):
        raise TypeError(f"{POSITION_FILE} does not belong to this folder")
    return position
