from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.report.browser import Browser, find_browser, install_browser
from tests.report.sample_run import make_files

Files = dict[str, Path]


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample run's files; never to be changed."""
    folder = tmp_path_factory.mktemp("sample")
    make_files(folder)
    return folder


@pytest.fixture(scope="session")
def files(sample_folder: Path) -> Files:
    """The sample run's files by bundle path; never to be changed."""
    return _list(sample_folder)


@pytest.fixture
def copy_files(sample_folder: Path, tmp_path: Path) -> Callable[[], Files]:
    """Makes a copy of the sample run's files, to be spoiled."""

    def copy() -> Files:
        target = tmp_path / "spoiled"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(sample_folder, target)
        return _list(target)

    return copy


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real browser; Debian's is installed when there is none and we may."""
    why_not = install_browser()
    executable = find_browser()
    if executable is None:
        pytest.skip(f"no browser: {why_not}")
    with Browser(executable) as opened:
        yield opened


def _list(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
