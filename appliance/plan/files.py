"""A plan's two files: ``plan_meta.json`` and ``plan_arrays.npz`` (Plan-STaR section 1.8).

What comes from disk is not trusted: sizes are checked before anything is unpacked, no pickle is
ever read, and whatever is wrong becomes a PlanError that names it. Law:
``read_plan(write_plan(plan, d))`` holds the same metadata and arrays, bit for bit.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from appliance.errors import PlanError
from appliance.files import atomic_folder, storage_errors, write_atomic
from appliance.plan.metadata import hash_plan, metadata_bytes
from appliance.plan.plan import ARRAYS_FILE, META_FILE, PLAN_VERSION, PLAN_VERSION_1, Plan

OWN_ARRAYS: Mapping[str, str] = {
    "anchor_indices": "<i8",
    "stage_ids": "<i4",
    "weights": "<f4",
}
MAX_META_BYTES = 1 << 28
MAX_ARRAYS = 16
MAX_ARRAY_BYTES = 1 << 33
MAX_INFLATION = 200
FREE_INFLATION_BYTES = 1 << 26


def write_plan(plan: Plan, out_dir: Path) -> Path:
    """Write both files into ``out_dir`` (metadata last); returns the folder.

    The same plan always makes the same bytes. Raises StorageError.
    """
    write_atomic(out_dir / ARRAYS_FILE, arrays_bytes(plan.arrays), doing="writing the plan")
    write_atomic(out_dir / META_FILE, metadata_bytes(plan.meta), doing="writing the plan")
    return out_dir


def arrays_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of an uncompressed npz file, the same for the same arrays."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            array = arrays[name]
            stored = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.external_attr = 0o644 << 16
            data = io.BytesIO()
            np.lib.format.write_array(  # type: ignore[no-untyped-call]
                data, stored, version=(1, 0), allow_pickle=False
            )
            # Not through open(..., force_zip64=True): patch releases of Python differ in what
            # they write then.
            archive.writestr(member, data.getbuffer())
    return target.getvalue()


def locate_plan(path: Path) -> tuple[Path, Path]:
    """The metadata and the array file of a plan given as folder, plan_meta.json or npz."""
    folder = path if path.is_dir() else path.parent
    if not path.exists() or (path.is_file() and path.name not in (META_FILE, ARRAYS_FILE)):
        raise PlanError(
            f"{path}: there is no sampling plan. Give the folder that holds {META_FILE} and"
            f" {ARRAYS_FILE}, or build one with `appliance plan build`."
        )
    for name in (META_FILE, ARRAYS_FILE):
        if not (folder / name).is_file():
            raise PlanError(
                f"{folder}: not a whole sampling plan, {name} is missing. Copy or build it again."
            )
    return folder / META_FILE, folder / ARRAYS_FILE


def read_plan(path: Path, *, check_hash: bool = True) -> Plan:
    """The plan in a folder, or beside a plan_meta.json or plan_arrays.npz, of version 1 or 2.

    Raises PlanError for anything damaged, and "Plan sha256 mismatch" unless ``check_hash`` is
    False.
    """
    meta_file, arrays_file = locate_plan(Path(path))
    meta = _read_meta(meta_file)
    arrays = _check_arrays(arrays_file, read_arrays(arrays_file), int(meta["dataset_len"]))
    if meta["plan_version"] == PLAN_VERSION_1:
        computed = _hash_version_1(meta, arrays_file)
    else:
        computed = hash_plan(meta, arrays)
    plan = Plan(
        meta=meta,
        anchor_indices=arrays["anchor_indices"],
        stage_ids=arrays["stage_ids"],
        weights=arrays["weights"],
        extra_arrays={name: array for name, array in arrays.items() if name not in OWN_ARRAYS},
        computed_sha256=computed,
    )
    if check_hash:
        check_plan_hash(plan)
    return plan


def check_plan_hash(plan: Plan) -> None:
    """Raise PlanError "Plan sha256 mismatch" when the content is not what its hash says."""
    if plan.computed_sha256 != plan.plan_sha256:
        raise PlanError(
            f"Plan sha256 mismatch: expected {plan.plan_sha256} (recorded in {META_FILE}), computed"
            f" {plan.computed_sha256}. The plan was edited or damaged after it was built; build it"
            " again or restore the original files."
        )


def copy_plan(path: Path, out_dir: Path) -> None:
    """Copy a plan's two files, byte for byte, into a new folder ``out_dir``.

    Raises PlanError when there is no plan, StorageError when it cannot be copied.
    """
    files = locate_plan(Path(path))
    with atomic_folder(out_dir, doing="copying the sampling plan") as folder:
        for file in files:
            with storage_errors(file, "copying the sampling plan"):
                data = file.read_bytes()
            write_atomic(folder / file.name, data)


def _read_bytes(file: Path, limit: int) -> bytes:
    with storage_errors(file, "reading the plan"):
        size = file.stat().st_size
        if size > limit:
            raise PlanError(f"{file}: {size} bytes are too many for a plan. Build it again.")
        return file.read_bytes()


def _damaged(file: Path, what: object) -> PlanError:
    return PlanError(f"{file}: {what}. The plan is damaged; build it again or restore the file.")


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _read_meta(file: Path) -> dict[str, Any]:
    data = _read_bytes(file, MAX_META_BYTES)
    try:
        meta = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"not valid JSON ({error})") from error
    if not isinstance(meta, dict):
        raise _damaged(file, "not a JSON object")
    version = meta.get("plan_version")
    if version not in (PLAN_VERSION, PLAN_VERSION_1):
        raise PlanError(
            f"{file}: plan_version is {version!r}; known are {PLAN_VERSION_1} and {PLAN_VERSION}."
            " Use a newer version of this program, or build the plan again."
        )
    length = meta.get("dataset_len")
    if isinstance(length, bool) or not isinstance(length, int) or not 0 <= length < 2**40:
        raise _damaged(file, f"dataset_len is {length!r}, not a number of frames")
    recorded = meta.get("plan_sha256")
    if not isinstance(recorded, str):
        raise _damaged(file, f"plan_sha256 is {recorded!r}, not a hash")
    return meta


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """All arrays of numbers in an npz file, of one or two axes, whether or not a plan has them.

    No size that the file states is believed. Raises PlanError, StorageError.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with storage_errors(file, "reading the plan"):
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if len(members) > MAX_ARRAYS:
                    raise _damaged(file, f"{len(members)} arrays in it, which is too many")
                for member in members:
                    name = member.filename.removesuffix(".npy")
                    if name in arrays or name == member.filename:
                        raise _damaged(file, f"unexpected member {member.filename!r}")
                    arrays[name] = _read_member(file, archive, member)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
            ValueError,
            OverflowError,
            MemoryError,
        ) as error:
            raise _damaged(file, f"not a readable npz file ({error})") from error
        except OSError as error:
            if error.errno != errno.EINVAL:  # a place before the file's start
                raise
            raise _damaged(file, f"not a readable npz file ({error})") from error
    return arrays


def _read_member(file: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    size, packed = member.file_size, member.compress_size
    inflated = size > FREE_INFLATION_BYTES and size > MAX_INFLATION * packed
    if size > MAX_ARRAY_BYTES or inflated:
        raise _damaged(file, f"{member.filename} claims {size} bytes, packed in {packed}")
    with archive.open(member) as stream:
        data = stream.read(size + 1)
    if len(data) != size:
        raise _damaged(file, f"{member.filename} has {len(data)} bytes instead of {size}")
    try:
        return _parse_npy(data)
    except (ValueError, TypeError, EOFError, SyntaxError, RecursionError, MemoryError) as error:
        raise _damaged(file, f"{member.filename} is not an array of numbers ({error})") from error


def _parse_npy(data: bytes) -> NDArray[Any]:
    """An array of plain numbers from the bytes of an npy file; its header is not trusted."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
    if version != (1, 0):
        raise ValueError("npy format version is not 1.0")
    header = np.lib.format.read_array_header_1_0(stream)  # type: ignore[no-untyped-call]
    shape, fortran, dtype = header
    if dtype.kind not in "iuf" or dtype.fields is not None or dtype.subdtype is not None:
        raise ValueError(f"dtype {dtype} is not a plain number")
    if len(shape) not in (1, 2) or (fortran and len(shape) > 1):
        raise ValueError(f"shape {shape} is not one of a plan's")
    expected = dtype.itemsize
    for length in shape:
        expected *= int(length)
    body = data[stream.tell() :]
    if len(body) != expected or min(shape) < 0:
        raise ValueError(f"{len(body)} bytes of numbers where shape {shape} needs {expected}")
    native = np.frombuffer(body, dtype=dtype).reshape(shape)
    return native.astype(dtype.newbyteorder("="), copy=False)


def _check_arrays(
    file: Path, arrays: dict[str, NDArray[Any]], dataset_len: int
) -> dict[str, NDArray[Any]]:
    for name, dtype in OWN_ARRAYS.items():
        if name not in arrays:
            raise _damaged(file, f"the array {name} is missing")
        array = arrays[name]
        if array.ndim != 1 or array.dtype.newbyteorder("<").str != dtype:
            raise _damaged(
                file, f"{name} is {array.dtype.str} of shape {array.shape}, not {dtype} [N]"
            )
    lengths = {name: len(arrays[name]) for name in OWN_ARRAYS}
    if len(set(lengths.values())) != 1:
        raise _damaged(file, f"the arrays differ in length: {lengths}")
    if lengths["anchor_indices"] > dataset_len:
        raise _damaged(
            file, f"{lengths['anchor_indices']} anchors are more than the {dataset_len} frames"
        )
    return arrays


def _hash_version_1(meta: Mapping[str, Any], arrays_file: Path) -> str:
    """SHA-256 of the compact JSON without ``plan_sha256`` and of the npz file's bytes.

    Version 1 did not say whether other letters than ASCII were escaped; the spelling that fits the
    recorded hash counts.
    """
    kept = {key: value for key, value in meta.items() if key != "plan_sha256"}
    data = _read_bytes(arrays_file, MAX_ARRAY_BYTES)
    hashes = []
    for escaped in (False, True):
        text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=escaped)
        try:
            encoded = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _damaged(arrays_file.parent / META_FILE, f"not valid text ({error})") from error
        hashes.append(hashlib.sha256(encoded + data).hexdigest())
    return hashes[1] if meta["plan_sha256"] == hashes[1] else hashes[0]
