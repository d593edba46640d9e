"""Weights to start from: openpi's orbax folders and PaliGemma's npz archive."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from numpy.typing import NDArray

from appliance.digest import digest_files, sha256_file, tree_digest
from appliance.errors import CheckpointError
from appliance.policy.checkpoint import save_params
from appliance.policy.config import Pi0Config
from appliance.policy.initialization import init_leaf, init_params
from appliance.policy.parameters import abstract_params, flatten_params, nest_params
from appliance.policy.presets import LORA_FREEZE, PRESETS, TrainConfig
from appliance.policy.weights import infer_kind, load_weights, paligemma_shapes
from appliance.training.objective import initial_params
from appliance.training.request import InitialWeights
from tests.policy.small_models import ADAPTED, PLAIN, random_leaves

# Keys and shapes of the published paligemma-3b-pt-224.npz.
PALIGEMMA_3B = """
params/img/Transformer/encoder_norm/bias 1152
params/img/Transformer/encoder_norm/scale 1152
params/img/Transformer/encoderblock/LayerNorm_0/bias 27 1152
params/img/Transformer/encoderblock/LayerNorm_0/scale 27 1152
params/img/Transformer/encoderblock/LayerNorm_1/bias 27 1152
params/img/Transformer/encoderblock/LayerNorm_1/scale 27 1152
params/img/Transformer/encoderblock/MlpBlock_0/Dense_0/bias 27 4304
params/img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel 27 1152 4304
params/img/Transformer/encoderblock/MlpBlock_0/Dense_1/bias 27 1152
params/img/Transformer/encoderblock/MlpBlock_0/Dense_1/kernel 27 4304 1152
params/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/key/bias 27 16 72
params/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/key/kernel 27 1152 16 72
params/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/out/bias 27 1152
params/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/out/kernel 27 16 72 1152
params/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/bias 27 16 72
params/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel 27 1152 16 72
params/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/value/bias 27 16 72
params/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/value/kernel 27 1152 16 72
params/img/embedding/bias 1152
params/img/embedding/kernel 14 14 3 1152
params/img/head/bias 2048
params/img/head/kernel 1152 2048
params/img/pos_embedding 1 256 1152
params/llm/embedder/input_embedding 257152 2048
params/llm/final_norm/scale 2048
params/llm/layers/attn/attn_vec_einsum/w 18 8 256 2048
params/llm/layers/attn/kv_einsum/w 18 2 1 2048 256
params/llm/layers/attn/q_einsum/w 18 8 2048 256
params/llm/layers/mlp/gating_einsum 18 2 2048 16384
params/llm/layers/mlp/linear 18 16384 2048
params/llm/layers/pre_attention_norm/scale 18 2048
params/llm/layers/pre_ffw_norm/scale 18 2048
"""


def make_preset(model: Pi0Config) -> TrainConfig:
    preset = PRESETS["pi0_base_aloha_robotwin_lora"]
    return replace(preset, model=model, freeze=LORA_FREEZE)


def write_openpi(folder: Path, leaves: dict[str, NDArray[Any]]) -> InitialWeights:
    """A checkpoint in openpi's layout, written by orbax alone."""
    tree = nest_params({f"{path}/value": leaf for path, leaf in leaves.items()})
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(folder, {"params": tree})
    return InitialWeights(checkpoint=folder, sha256=tree_digest(digest_files(folder)))


def write_archive(path: Path, arrays: dict[str, NDArray[Any]]) -> InitialWeights:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return InitialWeights(checkpoint=path, sha256=sha256_file(path))


def make_archive_arrays(seed: int = 0) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(seed)
    return {
        path.replace("PaliGemma/", "params/"): generator.normal(size=shape).astype(np.float32)
        for path, shape in paligemma_shapes(PLAIN).items()
    }


@pytest.mark.parametrize("name", ["pi0_base_aloha_robotwin_lora", "pi0_base_aloha_robotwin_full"])
def test_the_published_archive_has_the_leaves_that_are_asked_of_it(name: str) -> None:
    rows = [line.split() for line in PALIGEMMA_3B.split("\n") if line]
    published = {
        path.replace("params/", "PaliGemma/"): tuple(map(int, sizes)) for path, *sizes in rows
    }
    assert paligemma_shapes(PRESETS[name].model) == published


def test_an_openpi_checkpoint_is_read_whole(tmp_path: Path) -> None:
    leaves = random_leaves(PLAIN, 1)
    init = write_openpi(tmp_path / "params", leaves)
    assert infer_kind(init.checkpoint) == "openpi"
    params = initial_params(make_preset(PLAIN), 0, LORA_FREEZE, init)
    assert params.keys() == leaves.keys()
    for path, leaf in leaves.items():
        frozen = "llm" in path
        assert params[path].dtype == (jnp.bfloat16 if frozen else np.float32)
        np.testing.assert_array_equal(params[path], leaf.astype(params[path].dtype))


def test_adapters_a_checkpoint_lacks_are_drawn_as_without_it(tmp_path: Path) -> None:
    leaves = random_leaves(PLAIN, 1)
    init = write_openpi(tmp_path / "params", leaves)
    params = initial_params(make_preset(ADAPTED), 7, LORA_FREEZE, init)
    random = flatten_params(init_params(ADAPTED, 7))
    assert params.keys() == random.keys()
    adapters = params.keys() - leaves.keys()
    assert len(adapters) == 20
    assert all("lora" in path for path in adapters)
    for path, leaf in params.items():
        expected = random[path] if path in adapters else leaves[path]
        np.testing.assert_array_equal(leaf, np.asarray(expected).astype(leaf.dtype), path)


def test_adapters_a_checkpoint_has_are_kept(tmp_path: Path) -> None:
    leaves = random_leaves(ADAPTED, 1)
    init = write_openpi(tmp_path / "params", leaves)
    params = initial_params(make_preset(ADAPTED), 7, LORA_FREEZE, init)
    for path, leaf in params.items():
        np.testing.assert_array_equal(leaf, leaves[path].astype(leaf.dtype), path)


def test_a_checkpoint_written_here_is_read_by_orbax_alone(tmp_path: Path) -> None:
    leaves = random_leaves(ADAPTED, 2)
    save_params(tmp_path / "params", nest_params(leaves))
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.restore(tmp_path / "params")
    assert list(tree) == ["params"]
    read = flatten_params(tree["params"])
    assert read.keys() == {f"{path}/value" for path in leaves}
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(read[f"{path}/value"], leaf)


def test_paligemma_gives_tower_and_language_model_and_the_rest_is_drawn(tmp_path: Path) -> None:
    arrays = make_archive_arrays()
    init = write_archive(tmp_path / "pt_224.npz", arrays)
    assert infer_kind(init.checkpoint) == "paligemma"
    params = initial_params(make_preset(ADAPTED), 3, LORA_FREEZE, init)
    assert params.keys() == flatten_params(abstract_params(ADAPTED)).keys()
    given = 0
    for path, leaf in params.items():
        name = path.replace("PaliGemma/", "params/")
        given += name in arrays
        expected = arrays[name] if name in arrays else init_leaf(ADAPTED, 3, path)
        np.testing.assert_array_equal(leaf, expected.astype(leaf.dtype), path)
    assert given == len(arrays) == len(PALIGEMMA_3B.split("\n")) - 2


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_an_archive_of_half_precision_is_read(tmp_path: Path, dtype: Any) -> None:
    arrays = {name: array.astype(dtype) for name, array in make_archive_arrays().items()}
    write_archive(tmp_path / "half.npz", arrays)
    for path, leaf in load_weights(tmp_path / "half.npz", PLAIN).items():
        np.testing.assert_array_equal(
            leaf.astype(np.float32),
            arrays[path.replace("PaliGemma/", "params/")].astype(np.float32),
        )


def refuse(path: Path, model: Pi0Config = PLAIN) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_weights(path, model)
    return str(caught.value)


def test_every_archive_leaf_that_does_not_fit_is_named(tmp_path: Path) -> None:
    arrays = make_archive_arrays()
    del arrays["params/img/head/bias"]
    arrays["params/llm/final_norm/scale"] = np.zeros(3, np.float32)
    arrays["params/llm/layers/mlp_1/linear"] = np.zeros(3, np.float32)
    arrays["opt/step"] = np.zeros((), np.float32)
    write_archive(tmp_path / "a.npz", arrays)
    text = refuse(tmp_path / "a.npz")
    assert "missing: PaliGemma/img/head/bias" in text
    assert "not part of this model: PaliGemma/llm/layers/mlp_1/linear, opt/step" in text
    assert "of another shape: PaliGemma/llm/final_norm/scale (3,) instead of (64,)" in text


def test_every_checkpoint_leaf_that_does_not_fit_is_named(tmp_path: Path) -> None:
    leaves = random_leaves(ADAPTED, 1)
    del leaves["state_proj/kernel"], leaves["PaliGemma/llm/layers/attn/q_einsum/lora_a"]
    leaves["time_mlp_in/bias"] = np.zeros(2, np.float32)
    leaves["action_in_proj/bias"] = np.zeros(2, np.float32)
    write_openpi(tmp_path / "params", leaves)
    text = refuse(tmp_path / "params", ADAPTED)
    assert "missing: state_proj/kernel;" in text
    assert "not part of this model: time_mlp_in/bias;" in text
    assert "of another shape: action_in_proj/bias (2,) instead of (32,)" in text
    assert "q_einsum/lora_a" not in text


def test_adapters_do_not_fit_a_model_without_them(tmp_path: Path) -> None:
    write_openpi(tmp_path / "params", random_leaves(ADAPTED, 1))
    text = refuse(tmp_path / "params", PLAIN)
    assert "not part of this model: PaliGemma/llm/layers/attn/attn_vec_einsum/lora_a" in text
    assert "and 12 more" in text


def test_other_paths_are_explained(tmp_path: Path) -> None:
    assert "is missing" in refuse(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("not weights")
    assert "neither a checkpoint folder nor an npz" in refuse(tmp_path / "notes.txt")
    write_openpi(tmp_path / "1000" / "params", random_leaves(PLAIN, 1))
    assert f"Point to {tmp_path}/1000/params" in refuse(tmp_path / "1000")
    with zipfile.ZipFile(tmp_path / "no_arrays.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "not a readable npz archive" in refuse(tmp_path / "no_arrays.npz")


def test_objects_integers_and_damage_in_an_archive_are_refused(tmp_path: Path) -> None:
    arrays = make_archive_arrays()
    whole = tmp_path / "whole.npz"
    write_archive(whole, arrays)
    broken = bytearray(whole.read_bytes())
    broken[len(broken) // 2] ^= 1
    (tmp_path / "broken.npz").write_bytes(bytes(broken))
    assert "not a readable npz archive" in refuse(tmp_path / "broken.npz")
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[: len(broken) // 2])
    assert "neither a checkpoint folder nor an npz" in refuse(tmp_path / "cut.npz")
    for odd in (np.zeros(64, np.int32), np.array([None])):
        write_archive(tmp_path / "odd.npz", {**arrays, "params/llm/final_norm/scale": odd})
        assert "not floating-point numbers" in refuse(tmp_path / "odd.npz")


def test_a_digest_that_is_not_the_named_one_is_refused_before_reading(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"anything")
    init = InitialWeights(checkpoint=tmp_path / "a.npz", sha256="0" * 64)
    with pytest.raises(CheckpointError, match=r"has digest [0-9a-f]{64}, but 0000"):
        initial_params(make_preset(PLAIN), 0, LORA_FREEZE, init)
