"""A run folder as the input of a report: the files of its stages under their bundle paths.

A run may be at any point: some stages done, one at work, the others not begun. A stage that was
done for an earlier manifest does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from appliance.bundle.assemble import collect_files
from appliance.report.report_input import ReportInput, StageState
from appliance.stages.definition import CONTENT, OBSERVED
from appliance.stages.manifest import read_manifest
from appliance.stages.receipt import RECEIPT_FILE, Receipt, read_receipt
from appliance.stages.registry import stages_for
from appliance.stages.run_folder import RunFolder


def is_run_folder(path: Path) -> bool:
    """Whether ``path`` looks like a run folder."""
    folder = RunFolder(path)
    return folder.manifest_path.is_file() and folder.state_path.is_file()


def read_run_input(folder: RunFolder, *, embed_videos: bool) -> ReportInput:
    """What a report on the run in ``folder`` is made from.

    Raises ManifestError when its manifest is not valid, StorageError when a file cannot be listed.
    """
    folder.check_no_links()
    manifest = read_manifest(folder.manifest_path)
    places = folder.stage_places()
    files: dict[str, Path] = {f"{OBSERVED}/manifest.yaml": folder.manifest_path}
    if folder.lock_path.is_file():
        files[f"{OBSERVED}/lock.json"] = folder.lock_path
    receipts: dict[str, Receipt] = {}
    states: list[StageState] = []
    for stage in stages_for(manifest):
        place = places.get(stage.name)
        receipt = None if place is None else read_receipt(place)
        if (
            place is not None
            and receipt is not None
            and _follows(receipt, stage.upstream, receipts)
        ):
            receipts[stage.name] = receipt
            state = "done"
            files[f"{OBSERVED}/receipts/{stage.name}.json"] = place / RECEIPT_FILE
        else:
            place = _find_unfinished(folder, stage.name)
            state = "not run" if place is None else "unfinished"
        if place is not None:
            for part in (CONTENT, OBSERVED):
                files |= collect_files(place / part, f"{part}/{stage.name}")
        states.append(StageState(name=stage.name, state=state))
    return ReportInput(
        files=files,
        name=manifest.name,
        manifest=manifest.as_dict(),
        stages=tuple(states),
        embed_videos=embed_videos,
    )


def _follows(receipt: Receipt, upstream: tuple[str, ...], receipts: Mapping[str, Receipt]) -> bool:
    """Whether a result was made from the upstream results as they are now."""
    inputs = receipt.key_parts.get("inputs")
    if not isinstance(inputs, Mapping):
        return False
    return all(
        name in receipts and inputs.get(name) == receipts[name].content_digest for name in upstream
    )


def _find_unfinished(folder: RunFolder, stage: str) -> Path | None:
    """The folder of ``stage`` that was worked in last and has no receipt."""
    parent = folder.path / "stages"
    if not parent.is_dir():
        return None
    found = [
        place
        for place in parent.glob(f"{stage}-*")
        if place.is_dir() and not (place / RECEIPT_FILE).exists() and "." not in place.name
    ]
    return max(found, key=lambda place: (place.stat().st_mtime_ns, place.name), default=None)
