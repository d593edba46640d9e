"""Where the records of an evaluation lie in whatever folder a person names."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from appliance.bundle.archive import ArchiveError, is_archive, read_members
from appliance.errors import EvaluationError, NotABundleError
from appliance.files import storage_errors
from appliance.stages.definition import CONTENT
from appliance.stages.run_folder import RunFolder

METRICS_NAME = "metrics.json"
STAGE_NAME = "evaluate"
_MAX_FILE_BYTES = 256 << 20
_PREFIX = f"{CONTENT}/{STAGE_NAME}/"


@contextlib.contextmanager
def opened_evaluation(place: Path) -> Iterator[Path]:
    """The ``content/`` of the evaluation in ``place``, a folder as of ``find_evaluation``.

    A bundle's archive is taken too; what is needed of it is there inside the block. Raises
    EvaluationError, NotABundleError when the archive is damaged, StorageError.
    """
    if not is_archive(place):
        yield find_evaluation(place)
        return
    with tempfile.TemporaryDirectory(prefix="appliance-") as scratch:
        with storage_errors(place, "reading the archive"):
            _extract_records(place, Path(scratch))
        if not (Path(scratch) / METRICS_NAME).is_file():
            raise EvaluationError(f"{place}: a bundle without an evaluation ({_PREFIX}).")
        yield Path(scratch)


def _extract_records(archive: Path, folder: Path) -> None:
    try:
        for member in read_members(archive):
            name = member.name.removeprefix(_PREFIX)
            if not member.name.startswith(_PREFIX) or "/" in name:
                continue
            if member.size_bytes > _MAX_FILE_BYTES:
                raise ArchiveError(f"{member.name} is too large for a record")
            (folder / name).write_bytes(member.read(member.size_bytes))
    except ArchiveError as problem:
        raise NotABundleError(
            f"{archive}: cannot be read: {problem}. Get the archive again from its author."
        ) from problem


def find_evaluation(folder: Path) -> Path:
    """The ``content/`` of the evaluation in ``folder``.

    ``folder`` is an evaluation's output, its ``content``, a stage's folder, a run folder (its
    present result) or a bundle. Raises EvaluationError when there is none.
    """
    places = [folder, folder / CONTENT, folder / CONTENT / STAGE_NAME]
    stage = RunFolder(folder).stage_places().get(STAGE_NAME)
    if stage is not None:
        places.append(stage / CONTENT)
    for place in places:
        if (place / METRICS_NAME).is_file():
            return place
    raise EvaluationError(
        f"{folder}: no finished evaluation there ({METRICS_NAME} is missing). Name the output of"
        " `appliance evaluate`, a run folder, or a bundle."
    )
