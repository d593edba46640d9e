from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from appliance.digest import sha256_file
from appliance.errors import CheckpointError, RuntimeMissingError
from appliance.policy.config import BYTE_VOCABULARY
from appliance.policy.presets import PRESETS, TrainConfig
from appliance.policy.tokenizer import (
    ByteTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    clean_prompt,
    make_tokenizer,
)
from tests.policy.small_tokenizer import BOS, PAD, UNKNOWN, train_tokenizer

LORA = PRESETS["pi0_base_aloha_robotwin_lora"]
TINY = PRESETS["pi0_tiny_aloha_robotwin"]


def test_a_prompt_becomes_start_bytes_newline_and_padding() -> None:
    tokens, mask = ByteTokenizer(8).encode(" a_b\n")
    assert tokens.tolist() == [1, ord("a") + 2, ord(" ") + 2, ord("b") + 2, 12, 0, 0, 0]
    assert mask.tolist() == [True] * 5 + [False] * 3
    assert tokens.dtype == np.int32


def test_prompts_are_cleaned_as_openpi_does() -> None:
    assert clean_prompt("  stack_blocks\ntwo \n") == "stack blocks two"


@given(prompt=st.text(max_size=40), length=st.integers(1, 48))
def test_tokens_always_fit_the_length_and_the_vocabulary(prompt: str, length: int) -> None:
    tokens, mask = ByteTokenizer(length).encode(prompt)
    assert tokens.shape == mask.shape == (length,)
    assert tokens.min() >= 0
    assert tokens.max() < BYTE_VOCABULARY
    assert (tokens[~mask] == 0).all()
    assert (tokens[mask] != 0).all()


@given(first=st.text(max_size=10), second=st.text(max_size=10))
def test_prompts_that_fit_differ_iff_their_tokens_differ(first: str, second: str) -> None:
    encode = ByteTokenizer(64).encode
    same = (encode(first)[0] == encode(second)[0]).all()
    assert same == (clean_prompt(first) == clean_prompt(second))


def test_a_preset_with_sentencepiece_needs_the_model_file() -> None:
    with pytest.raises(RuntimeMissingError, match="SentencePiece"):
        make_tokenizer(LORA)


def test_a_tokenizer_model_with_another_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"not the one")
    with pytest.raises(CheckpointError, match="SHA-256"):
        make_tokenizer(LORA, model_path=path, model_sha256="0" * 64)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.model")


def make(path: Path, config: TrainConfig = LORA) -> Tokenizer:
    return make_tokenizer(config, model_path=path, model_sha256=sha256_file(path))


def test_a_prompt_becomes_start_pieces_newline_and_padding(model_path: Path) -> None:
    tokenizer = make(model_path)
    tokens, mask = tokenizer.encode("  touch_the\nblock ")
    processor = SentencePieceProcessor(model_file=str(model_path))
    pieces = processor.encode("touch the block")
    assert tokens.dtype == np.int32
    assert tokens[mask].tolist() == [BOS, *pieces, processor.piece_to_id("\n")]
    assert 4 < mask.sum() < 48 == len(tokens)
    assert (tokens[~mask] == PAD).all()
    assert UNKNOWN not in tokens
    assert tokenizer.name == f"sentencepiece:{sha256_file(model_path)}"


def test_a_long_prompt_loses_its_end(model_path: Path) -> None:
    tokens, mask = make(model_path).encode("touch the block " * 40)
    assert mask.all()
    assert tokens[0] == BOS


def test_a_small_configuration_may_be_given_a_model(model_path: Path) -> None:
    assert make_tokenizer(TINY).name == "byte"
    tokenizer = make(model_path, TINY)
    assert tokenizer.name.startswith("sentencepiece:")
    assert len(tokenizer.encode("touch the block")[0]) == TINY.model.max_token_len


def test_a_worker_process_reads_prompts_alike(model_path: Path) -> None:
    tokenizer = make(model_path)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert (copy.encode("touch the block")[0] == tokenizer.encode("touch the block")[0]).all()


def test_a_model_with_other_tokens_is_refused(tmp_path: Path, model_path: Path) -> None:
    few = replace(TINY, model=replace(TINY.model, vocabulary=32))
    with pytest.raises(CheckpointError, match="has 60 tokens, but the model has rows for 32"):
        make(model_path, few)
    startless = train_tokenizer(tmp_path / "startless.model", bos_id=-1)
    with pytest.raises(CheckpointError, match="no start token"):
        make(startless)
    (tmp_path / "notes.model").write_text("notes")
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        make(tmp_path / "notes.model")
    with pytest.raises(CheckpointError, match="is missing"):
        make_tokenizer(LORA, model_path=tmp_path / "nothing", model_sha256="0" * 64)


def test_a_missing_sentencepiece_package_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"model")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(RuntimeMissingError, match="pip install sentencepiece"):
        SentencePieceTokenizer(path, sha256_file(path), 48, 64)
