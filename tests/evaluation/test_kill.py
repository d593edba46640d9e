"""Law: an evaluation killed at any moment and started once more gives the same content bytes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.evaluation.fakes import NoisePolicy, World, read_content, run_evaluation

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.evaluation.fakes", "appliance.evaluation.video"])
LONGEST_S = 120
KILLED = 9
SKIPS = {100001: "unstable"}
FAILS = (100002,)


class Killer:
    """Ends this process without a last word at its ``moment``-th event, maybe in mid-write."""

    def __init__(self, moment: int) -> None:
        self.events = 0
        self._moment = moment

    def happens(self, last_act: Callable[[], object] = lambda: None) -> None:
        self.events += 1
        if self.events == self._moment:
            last_act()
            os._exit(KILLED)


def evaluate_until_killed(folder: Path, moment: int) -> int:
    """Evaluate in a child process that dies at the given moment; its exit status.

    The child comes from a process that only holds what an evaluation imports: one forked from this
    one would inherit the locks that threads of other tests' libraries hold.
    """
    child = CONTEXT.Process(target=evaluate_and_die, args=(folder, moment))
    child.start()
    child.join(timeout=LONGEST_S)
    if child.exitcode is None:
        child.kill()
        child.join()
        pytest.fail(f"killed at moment {moment}, an evaluation in memory hangs")
    code = child.exitcode
    child.close()
    return code


def evaluate_and_die(folder: Path, moment: int) -> None:
    """In the child: evaluate, unless the moment comes first."""
    killer = Killer(moment)
    hook_system_calls(killer)
    world = World(skips=SKIPS, before_call=lambda name, seed: killer.happens())
    run_evaluation(folder, world=world, policy=NoisePolicy(fails=FAILS), episodes=2, video=True)


def hook_system_calls(killer: Killer) -> None:
    """Before every write, flush, and rename the killer may strike; a write may be torn."""
    write, fsync, replace = os.write, os.fsync, Path.replace

    def torn_write(handle: int, data: bytes) -> int:
        killer.happens(lambda: write(handle, bytes(data)[: len(data) // 2]))
        return write(handle, data)

    def late_fsync(handle: int) -> None:
        killer.happens()
        fsync(handle)

    def late_replace(path: Path, target: Path) -> Path:
        killer.happens()
        return replace(path, target)

    os.write, os.fsync, Path.replace = torn_write, late_fsync, late_replace  # type: ignore[assignment,method-assign]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("reference")
    world = World(skips=SKIPS)
    run_evaluation(folder, world=world, policy=NoisePolicy(fails=FAILS), episodes=2, video=True)
    return read_content(folder)


def resume_and_check(folder: Path, reference: dict[str, bytes]) -> None:
    journal = folder / "observed" / "journal.jsonl"
    finished = journal.read_bytes().count(b'"kind": "episode"') if journal.exists() else 0
    checked = journal.read_bytes().count(b'"kind": "check"') if journal.exists() else 0
    world = World(skips=SKIPS)
    run_evaluation(folder, world=world, policy=NoisePolicy(fails=FAILS), episodes=2, video=True)
    names = [name for name, _ in world.calls]
    # One torn line may be counted that is then done again.
    assert 0 <= names.count("reset") - (2 - finished) <= 1
    assert 0 <= names.count("expert_check") - (3 - checked) <= 1
    assert read_content(folder) == reference
    assert not list(folder.rglob("*.tmp"))
    assert len(list((folder / "observed" / "videos").glob("*.mp4"))) == 2


def test_killed_at_every_moment_and_started_once_more_gives_the_same_content(
    tmp_path: Path, reference: dict[str, bytes]
) -> None:
    moment = 0
    while True:
        moment += 1
        folder = tmp_path / str(moment)
        code = evaluate_until_killed(folder, moment)
        resume_and_check(folder, reference)
        if code == 0:
            break
        assert code == KILLED
    assert moment > 50, "the moments include calls, writes, flushes and renames"


def test_killed_again_and_again_still_ends_with_the_same_content(
    tmp_path: Path, reference: dict[str, bytes]
) -> None:
    kills = 0
    # Enough moments for one trial, and for writing the results: each attempt gets a little further.
    while (code := evaluate_until_killed(tmp_path, moment=24)) != 0:
        assert code == KILLED
        kills += 1
        assert kills < 50, "it gets nowhere"
    assert kills >= 3
    assert read_content(tmp_path) == reference
