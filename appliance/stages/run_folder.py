"""The run folder: everything one manifest's runs leave on disk.

```
RUN_DIR/
  manifest.yaml      the manifest as it was given
  lock.json          every name resolved to a digest
  environment/       the container image the stages ran in, and what is installed in it
  run.json           which stage folders make up the present result
  stages/NAME-KEY/   one folder a stage result; unfinished without receipt.json; never overwritten
  bundles/DIGEST/    signed audit bundles; `bundle` links to the newest
```

Nothing finished is deleted or overwritten: another manifest in the same folder makes other stage
folders and another bundle beside the old ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import RunFolderBusyError, StorageError
from appliance.files import read_json, storage_errors, write_atomic, write_json

KEY_LENGTH = 12
SCRATCH = ".scratch"
# A stage's name and the beginning of its key.
_STAGE_FOLDER = re.compile(r"[a-z_]{1,40}-[0-9a-f]{1,64}")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Names the places in a run folder; makes nothing by itself."""

    path: Path

    @property
    def manifest_path(self) -> Path:
        """The manifest's bytes as given."""
        return self.path / "manifest.yaml"

    @property
    def lock_path(self) -> Path:
        """The resolved lock."""
        return self.path / "lock.json"

    @property
    def state_path(self) -> Path:
        """Which stage folders belong together, and where dataset and named files lie."""
        return self.path / "run.json"

    @property
    def claim_path(self) -> Path:
        """The file whose lock says that a run works here."""
        return self.path / ".busy"

    @property
    def environment_dir(self) -> Path:
        """What is known of the image stages ran in; no such folder after a run on the host."""
        return self.path / "environment"

    @property
    def bundles_dir(self) -> Path:
        """Parent of the bundles."""
        return self.path / "bundles"

    @property
    def bundle_link(self) -> Path:
        """Link to the newest bundle."""
        return self.path / "bundle"

    @property
    def _new_link(self) -> Path:
        return self.path / ".bundle.tmp"

    def stage_dir(self, stage: str, key: str) -> Path:
        """Folder of the result of ``stage`` under ``key``."""
        return self.path / "stages" / f"{stage}-{key[:KEY_LENGTH]}"

    def create(self) -> None:
        """Make the folder and see that it can be written. Raises StorageError."""
        with storage_errors(self.path, "making the run folder"):
            self.path.mkdir(parents=True, exist_ok=True)
        probe = self.path / ".writable"
        write_atomic(probe, b"", doing="checking that the run folder can be written")
        probe.unlink(missing_ok=True)

    def check_no_links(self) -> None:
        """See that nothing in here leads elsewhere. Raises StorageError for a link or special file.

        Code in a container may write here, and whoever reads or writes here outside of it would
        follow a link it left. No run follows its link to the newest bundle, and what lies in a
        scratch folder is read by stages alone.
        """
        waiting, scratch = [self.path], self.path / SCRATCH
        own = (self.bundle_link, self._new_link)
        with storage_errors(self.path, "looking for links in it"):
            while waiting:
                folder = waiting.pop()
                for entry in _list_entries(folder):
                    path = folder / entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.extend([] if folder == scratch else [path])
                    elif not entry.is_file(follow_symlinks=False) and path not in own:
                        raise StorageError(
                            f"{path}: neither a regular file nor a folder, so that what it"
                            " leads to would be taken for a part of the run. Remove it and run the"
                            " same command again; if a stage in a container left it, ask who made"
                            " the image."
                        )

    def read_state(self) -> dict[str, Any]:
        """The content of ``run.json``; empty when there is none yet or it is damaged."""
        try:
            value = read_json(self.state_path)
        except StorageError:
            return {}
        return dict(value) if isinstance(value, Mapping) else {}

    def stage_places(self) -> dict[str, Path]:
        """The folders of the stages that make up the present result, by the stage's name.

        They are named in ``run.json``, where code in a container may write: what is no name of a
        stage's folder is left out.
        """
        named = self.read_state().get("stages")
        return {
            stage: self.path / "stages" / name
            for stage, name in (named.items() if isinstance(named, Mapping) else ())
            if isinstance(name, str) and _STAGE_FOLDER.fullmatch(name)
        }

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Replace ``run.json``. Raises StorageError."""
        write_json(self.state_path, dict(state))

    def point_bundle_link(self, bundle: Path) -> None:
        """Let ``bundle`` point at the newest bundle. Raises StorageError."""
        with storage_errors(self.bundle_link, "linking the newest bundle"):
            self._new_link.unlink(missing_ok=True)
            self._new_link.symlink_to(bundle.relative_to(self.path), target_is_directory=True)
            self._new_link.replace(self.bundle_link)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[int]:
        """Hold the folder; yields the descriptor that holds it.

        A process that inherits the descriptor holds the folder too, so that a stage that outlives
        its chain is not joined by a second one. The claim ends with the last of them, however they
        end. Raises RunFolderBusyError when another process holds it.
        """
        with claim(self.claim_path, self.path, "another folder with --run-dir") as handle:
            yield handle


def _list_entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of ``folder``; none when it is gone, as a stage at work renames folders."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def claim(path: Path, folder: Path, otherwise: str) -> Iterator[int]:
    """Hold the file ``path``, which stands for ``folder``; yields its descriptor.

    Raises RunFolderBusyError, with ``otherwise`` as what to choose, when another process holds it.
    """
    with storage_errors(path, "claiming the run folder"):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderBusyError(
                f"{folder}: another run is working in this folder. Wait for it, stop it, or choose"
                f" {otherwise}."
            ) from error
        yield handle
    finally:
        os.close(handle)
