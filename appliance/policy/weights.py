"""Weights to start from: openpi's ``params`` folders and PaliGemma's npz file.

What a path holds is seen from it: a folder is an orbax checkpoint of the whole policy, a file is
PaliGemma's archive of NumPy arrays, which holds the vision tower and the language model only. An
archive's keys are "params/" and a parameter's path below "PaliGemma/"; its numbers may be stored
in any float type, bfloat16 as two plain bytes. Adapters may be missing from either, and the action
expert and the projections are no part of PaliGemma; everything else must be there, and nothing
else may be (pi0 spec, "Configurations to ship").
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from appliance.errors import CheckpointError
from appliance.policy.checkpoint import Shape, check_shapes, load_params
from appliance.policy.config import Pi0Config
from appliance.policy.parameters import abstract_params, flatten_params

WeightsKind = Literal["openpi", "paligemma"]

LORA_PATTERN = r".*lora.*"
"""Leaves that weights to start from may lack: adapters start at random."""

ACTION_EXPERT_PATTERN = r"PaliGemma/llm/.*_1(/.*)?"
MODEL_FOLDER = "PaliGemma/"
ARCHIVE_FOLDER = "params/"
ARCHIVE_SUFFIX = ".npy"


def infer_kind(path: Path) -> WeightsKind:
    """What ``path`` holds. Raises CheckpointError when there is nothing, or something else."""
    if path.is_dir():
        return "openpi"
    if not path.exists():
        raise CheckpointError(f"{path}: the checkpoint to start from is missing. Check the path.")
    if zipfile.is_zipfile(path):
        return "paligemma"
    raise CheckpointError(
        f"{path}: neither a checkpoint folder nor an npz archive. Name the folder 'params' of an"
        " openpi checkpoint, or PaliGemma's npz file."
    )


def load_weights(path: Path, config: Pi0Config) -> dict[str, NDArray[Any]]:
    """The leaves of ``path`` by parameter path, checked against the model's shapes.

    Types are kept as stored; leaves that may be missing and are, are left out. Raises
    CheckpointError.
    """
    if infer_kind(path) == "openpi":
        expected = abstract_params(config)
        return flatten_params(load_params(path, expected, may_miss=(LORA_PATTERN,)))
    return load_paligemma(path, config)


def paligemma_shapes(config: Pi0Config) -> dict[str, Shape]:
    """Path and shape of the leaves that PaliGemma's archive gives to this model."""
    return {
        path: tuple(leaf.shape)
        for path, leaf in flatten_params(abstract_params(config)).items()
        if path.startswith(MODEL_FOLDER)
        and not re.fullmatch(ACTION_EXPERT_PATTERN, path)
        and not re.fullmatch(LORA_PATTERN, path)
    }


def load_paligemma(path: Path, config: Pi0Config) -> dict[str, NDArray[Any]]:
    """The leaves of PaliGemma's archive; shapes are checked before numbers are read.

    Raises CheckpointError.
    """
    with _reading(path), zipfile.ZipFile(path) as archive:
        members = {name: _model_path(name) for name in archive.namelist()}
        headers = {name: _read_header(archive, name) for name in members}
    found = {members[name]: shape for name, (shape, _) in headers.items()}
    check_shapes(path, found, paligemma_shapes(config))
    with _reading(path), np.load(path, allow_pickle=False) as arrays:
        return {
            members[name]: _restore_bfloat16(arrays[name.removesuffix(ARCHIVE_SUFFIX)])
            for name in sorted(members)
        }


def _model_path(member: str) -> str:
    """The parameter path of an archive's member; names of another form are left as they are."""
    name = member.removesuffix(ARCHIVE_SUFFIX)
    if name.startswith(ARCHIVE_FOLDER):
        return MODEL_FOLDER + name.removeprefix(ARCHIVE_FOLDER)
    return name


def _read_header(archive: zipfile.ZipFile, member: str) -> tuple[Shape, np.dtype[Any]]:
    with archive.open(member) as stream:
        # NumPy's header readers carry no annotations.
        version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
        reader: Any = np.lib.format
        read = reader.read_array_header_1_0 if version == (1, 0) else reader.read_array_header_2_0
        shape, _, dtype = read(stream)
    if dtype.kind not in "fV" or (dtype.kind == "V" and dtype.itemsize != 2):
        raise ValueError(f"{member} holds {dtype}, not floating-point numbers")
    return tuple(shape), dtype


def _restore_bfloat16(array: NDArray[Any]) -> NDArray[Any]:
    """NumPy's files know no bfloat16 and store it as two plain bytes."""
    return array.view(np.dtype(jnp.bfloat16)) if array.dtype.kind == "V" else array


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(
            f"{path}: not a readable npz archive ({reason}). It is damaged or of another kind;"
            " supply the file again."
        ) from error
