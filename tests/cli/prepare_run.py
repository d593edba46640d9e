"""Prepare a run folder as `appliance run` does before its first stage: MANIFEST RUN_DIR."""

from __future__ import annotations

import sys
from pathlib import Path

from appliance.stages.chain import prepare_run_folder
from appliance.stages.manifest import read_manifest
from appliance.stages.resolve import resolve_lock
from appliance.stages.run_folder import RunFolder


def prepare(manifest_path: Path, run_dir: Path) -> RunFolder:
    """The folder a stage process would find."""
    manifest = read_manifest(manifest_path)
    folder = RunFolder(run_dir.resolve())
    folder.create()
    prepare_run_folder(folder, manifest, resolve_lock(manifest), run_dir / "scratch")
    return folder


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path(sys.argv[2]))
