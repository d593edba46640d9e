"""A SentencePiece model trained on a few sentences, with PaliGemma's special tokens."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import sentencepiece

SENTENCES = (
    "touch the block",
    "touch the red block with the nearer arm",
    "put the blue block on the green block",
    "stack blocks two",
    "move the left gripper to the block",
)
PAD, EOS, BOS, UNKNOWN = 0, 1, 2, 3


def train_tokenizer(path: Path, **options: Any) -> Path:
    """Write a model of 60 pieces to ``path``; PaliGemma's ids, and the newline as one token."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        **{
            "vocab_size": 60,
            "model_type": "bpe",
            "pad_id": PAD,
            "eos_id": EOS,
            "bos_id": BOS,
            "unk_id": UNKNOWN,
            "user_defined_symbols": ["\n"],
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "add_dummy_prefix": False,
            "num_threads": 1,
            "minloglevel": 2,
            **options,
        },
    )
    path.write_bytes(model.getvalue())
    return path
