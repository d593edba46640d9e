"""Checkpoints: every bit comes back, damage is found, a failed save leaves the last good one."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from appliance.errors import CheckpointError, StorageError
from appliance.policy.presets import OptimizerConfig
from appliance.training.checkpoints import CheckpointFolder, digest_state
from appliance.training.optimizer import build_optimizer
from appliance.training.step import TrainState, start_state


def make_state(step: int, *, ema: bool = True, width: int = 3) -> TrainState:
    keys = jax.random.split(jax.random.key(step), 4)
    trained = {
        "img/kernel": jax.random.normal(keys[0], (2, width)),
        "img/bias": jax.random.normal(keys[1], (width,)),
        "scalar": jnp.asarray(0.3, jnp.float32),
    }
    frozen = {"llm/w": jax.random.normal(keys[2], (4,)).astype(jnp.bfloat16)}
    state = start_state(
        trained, frozen, build_optimizer(OptimizerConfig()), ema_decay=0.9 if ema else None
    )
    moments = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.1, leaf.dtype) if leaf.ndim else leaf + step,
        state.optimizer,
    )
    average = None if state.average is None else jax.tree.map(jnp.cos, state.average)
    return replace(state, step=jnp.asarray(step, jnp.int32), optimizer=moments, average=average)


def make_folder(path: Path) -> CheckpointFolder:
    return CheckpointFolder(
        path / "kept", asset_id="user/data", norm_stats_json=b'{"norm_stats": 1}'
    )


def names(path: Path) -> list[str]:
    found = path.iterdir() if path.exists() else []
    return sorted(entry.name for entry in found if entry.name != ".resume")


@pytest.mark.parametrize("ema", [True, False])
def test_a_state_comes_back_bit_for_bit(tmp_path: Path, ema: bool) -> None:
    folder, state = make_folder(tmp_path), make_state(5, ema=ema)
    folder.save(state, chain="ab", kept=True)
    (position,) = folder.positions()
    restored = folder.restore(position, make_state(0, ema=ema))
    assert str(jax.tree.structure(restored)) == str(jax.tree.structure(state))
    for one, other in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    assert (position.step, position.chain) == (5, "ab")
    assert position.state_digest == digest_state(state)


def test_layout_of_a_checkpoint(tmp_path: Path) -> None:
    target = make_folder(tmp_path).save(make_state(5), chain="ab", kept=True)
    assert names(target) == ["assets", "params", "position.json", "train_state"]
    stats = target / "assets" / "user" / "data" / "norm_stats.json"
    assert stats.read_bytes() == b'{"norm_stats": 1}'


def test_only_the_newest_resume_point_is_kept(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.save(make_state(1), chain="a", kept=False)
    folder.save(make_state(2), chain="b", kept=False)
    assert names(tmp_path / "kept" / ".resume") == ["2"]
    folder.save(make_state(3), chain="c", kept=True)
    assert names(tmp_path / "kept" / ".resume") == []
    folder.save(make_state(4), chain="d", kept=False)
    assert [position.step for position in folder.positions()] == [4, 3]
    assert list(folder.kept_leaves()) == ["3"]


def test_damage_and_another_model_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    target = folder.save(make_state(5), chain="ab", kept=True)
    (position,) = folder.positions()
    with pytest.raises(CheckpointError, match=r"img/kernel \(2, 3\) instead of \(2, 4\)"):
        folder.restore(position, make_state(0, width=4))
    with pytest.raises(CheckpointError, match="is not what was saved"):
        folder.restore(replace(position, state_digest="0" * 64), make_state(0))
    shutil.rmtree(target / "train_state")
    with pytest.raises(CheckpointError, match="train_state"):
        folder.restore(position, make_state(0))
    (target / "position.json").write_text("{")
    assert folder.positions() == []


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("position.json", ("img/bias", "e" * 64), "parameters or their digests"),
        ("position.json", ("img/gone", "e" * 64), "parameters or their digests"),
        ("assets/user/data/norm_stats.json", None, "normalization statistics"),
    ],
)
def test_what_is_kept_beside_the_parameters_is_checked_too(
    tmp_path: Path, name: str, damage: tuple[str, str] | None, expected: str
) -> None:
    folder = make_folder(tmp_path)
    path = folder.save(make_state(5), chain="ab", kept=True) / name
    if damage is None:
        path.write_bytes(b'{"norm_stats": 2}')
    else:
        value = json.loads(path.read_bytes())
        value["leaves"][damage[0]] = damage[1]
        path.write_text(json.dumps(value))
    (position,) = folder.positions()
    with pytest.raises(CheckpointError, match=rf"not what was saved \({expected}\)"):
        folder.restore(position, make_state(0))


@pytest.mark.parametrize("change", [{"step": 6}, {"step": "5"}, {"leaves": "none"}])
def test_a_position_that_cannot_be_is_left_out(tmp_path: Path, change: dict[str, object]) -> None:
    folder = make_folder(tmp_path)
    path = folder.save(make_state(5), chain="ab", kept=True) / "position.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    assert folder.positions() == []
    assert folder.kept_leaves() == {}


@pytest.mark.parametrize("kept", [True, False])
def test_a_failed_save_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    folder = make_folder(tmp_path)
    folder.save(make_state(1), chain="a", kept=kept)

    def fail(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(ocp.PyTreeCheckpointer, "save", fail)
    with pytest.raises(StorageError, match="disk is full"):
        folder.save(make_state(2), chain="b", kept=kept)
    assert names(tmp_path / "kept" / ("" if kept else ".resume")) == ["1"]
    (position,) = folder.positions()
    assert int(folder.restore(position, make_state(0)).step) == 1


def test_leftovers_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.save(make_state(1), chain="a", kept=True)
    (tmp_path / "kept" / ".2.abc.tmp" / "params").mkdir(parents=True)
    (tmp_path / "kept" / "3").mkdir()
    folder.remove_leftovers()
    assert [position.step for position in folder.positions()] == [1]
    assert names(tmp_path / "kept") == ["1", "3"]


def test_what_tensorstore_says_of_a_full_disk_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError('RESOURCE_EXHAUSTED: Error writing "params/0": No space left on device')

    monkeypatch.setattr(ocp.PyTreeCheckpointer, "save", fail)
    with pytest.raises(StorageError, match=r"disk is full. Free some space"):
        make_folder(tmp_path).save(make_state(2), chain="b", kept=True)
