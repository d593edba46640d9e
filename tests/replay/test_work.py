"""How much is repeated: what was asked for, or what the budget reaches."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from appliance.bundle.keys import create_key
from appliance.errors import ReplayError, StorageError
from appliance.files import write_json
from appliance.replay.checkpoints import TrainedFiles
from appliance.replay.levels import Level
from appliance.replay.places import Places
from appliance.replay.subject import Subject, open_subject
from appliance.replay.work import Passage, WorkFolder, adopt_stage, choose_extent
from appliance.stages.chain import Chain
from appliance.stages.decide import build_key_parts
from appliance.stages.definition import Stage
from appliance.stages.engines import Engine
from appliance.stages.receipt import seal_folder, stage_key
from appliance.stages.registry import stages_for
from appliance.stages.run_folder import RunFolder
from tests.conftest import GOLDEN

TEN = Passage(first_step=10, num_steps=2)


class FinishingEngine:
    """Finishes every stage at once, with the files that were there before and one of content."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def run_stage(self, stage: Stage, folder: RunFolder, claim: int) -> int:
        upstream = {each: self.chain.results[each].content_digest for each in stage.upstream}
        parts = build_key_parts(stage, self.chain.manifest, self.chain.lock, upstream)
        place = folder.stage_dir(stage.name, stage_key(parts))
        write_json(place / "content" / "said.json", {"stage": stage.name})
        times = {"started_utc": "1970-01-01T00:00:00+00:00", "seconds": 0.0}
        seal_folder(place, stage=stage.name, key_parts=parts, times=times, host={})
        return 0


@pytest.fixture
def golden() -> Iterator[Subject]:
    """The smoke golden, whose stages' times are recorded."""
    with open_subject(GOLDEN / "smoke.yaml", Places()) as subject:
        assert isinstance(subject, Subject)
        yield subject


def test_auto_goes_as_far_as_the_budget_reaches(golden: Subject) -> None:
    assert golden.reference is not None
    seconds = golden.reference.seconds["train"] + golden.reference.seconds["evaluate"]
    whole = choose_extent(golden, None, None, seconds + 1)
    assert (whole.train, whole.evaluate, whole.spot) == (True, True, None)
    some = choose_extent(golden, None, None, seconds - 1)
    assert (some.train, some.evaluate) == (False, False)
    assert some.spot == Passage(first_step=0, num_steps=3)
    assert "the budget" in some.why


def test_auto_evaluates_a_checkpoint_at_hand_when_training_costs_too_much(golden: Subject) -> None:
    assert golden.reference is not None
    at_hand = replace(golden, trained=TrainedFiles(content=Path("c"), artifacts=Path("a")))
    budget_s = golden.reference.seconds["evaluate"] + 1
    extent = choose_extent(at_hand, None, None, budget_s)
    assert (extent.train, extent.evaluate, extent.adopt) == (False, True, True)


def test_auto_takes_a_few_steps_when_the_cost_is_not_known(golden: Subject) -> None:
    extent = choose_extent(replace(golden, reference=None), None, None, 1e9)
    assert extent.spot is not None
    assert (extent.train, extent.evaluate) == (False, False)


def test_what_is_asked_for_is_done_whatever_it_costs(golden: Subject) -> None:
    at_hand = replace(golden, trained=TrainedFiles(content=Path("c"), artifacts=Path("a")))

    def work(subject: Subject, level: Level, spot: Passage | None = None) -> tuple[object, ...]:
        extent = choose_extent(subject, level, spot, 0.0)
        return extent.spot, extent.train, extent.evaluate, extent.adopt

    assert work(golden, Level.R1) == (None, False, False, False)
    assert work(golden, Level.R2) == (None, True, False, False)
    assert work(golden, Level.R2, TEN) == (TEN, False, False, False)
    assert work(golden, Level.R3) == (None, True, True, False)
    assert work(at_hand, Level.R3, TEN) == (TEN, False, True, True)
    assert work(at_hand, Level.R4) == (None, False, True, True)
    assert work(at_hand, Level.R5) == (None, True, True, False)
    with pytest.raises(ReplayError, match="--artifacts"):
        work(golden, Level.R4)


@pytest.mark.parametrize("passphrase", [b"velvet", None])
def test_a_replay_neither_needs_a_key_nor_makes_one(
    golden: Subject, tmp_path: Path, passphrase: bytes | None
) -> None:
    keys = tmp_path / "keys"
    if passphrase is not None:
        create_key(keys, passphrase=passphrase)  # whose words nobody gives
    before = keys.is_dir() and sorted(keys.iterdir())
    work = WorkFolder(tmp_path / "work")
    work.claim(golden.identity)
    manifest = work.write_manifest(golden.manifest)
    words = tmp_path / "words"
    with work.open_chain(
        manifest, scratch_dir=tmp_path / "scratch", key_dir=keys, passphrase_file=words
    ) as opened:
        assert {keys, words} <= set(opened.options.secrets)
        chain = replace(opened, engine=cast(Engine, FinishingEngine(opened)))
        for stage in stages_for(manifest):
            receipt = chain.bring_to_receipt(stage, lambda _: None)
            assert list(receipt.outputs) == ["content/said.json"]
    assert (keys.is_dir() and sorted(keys.iterdir())) == before


def test_a_stage_that_is_given_the_originals_checkpoint_cannot_change_it(
    golden: Subject, tmp_path: Path
) -> None:
    trained = TrainedFiles(content=tmp_path / "content", artifacts=tmp_path / "artifacts")
    for folder in (trained.content, trained.artifacts):
        folder.mkdir()
        (folder / "file").write_bytes(b"original")
    work = WorkFolder(tmp_path / "work")
    work.claim(golden.identity)
    manifest = work.write_manifest(golden.manifest)
    keys = tmp_path / "keys"
    with work.open_chain(
        manifest, scratch_dir=tmp_path / "scratch", key_dir=keys, passphrase_file=None
    ) as opened:
        chain = replace(opened, engine=cast(Engine, FinishingEngine(opened)))
        stages = {stage.name: stage for stage in stages_for(manifest)}
        for name in stages["train"].upstream:
            chain.bring_to_receipt(stages[name], lambda _: None)
        receipt = adopt_stage(chain, stages["train"], trained)
        assert sorted(receipt.outputs) == ["artifacts/file", "content/file"]
        place = chain.folder.stage_dir("train", receipt.key)
        for name in receipt.outputs:
            (place / name).write_bytes(b"changed")
            assert (tmp_path / name).read_bytes() == b"original"
        shutil.rmtree(place)
        (tmp_path / "artifacts").rename(tmp_path / "moved")
        (tmp_path / "artifacts").symlink_to(tmp_path / "moved")
        with pytest.raises(StorageError, match="artifacts"):
            adopt_stage(chain, stages["train"], trained)
