"""Prompts to token numbers.

The PaliGemma SentencePiece model is a file the user supplies; its SHA-256 is checked before use.
Without it the byte tokenizer serves the small configurations. Which one was used is ``name``, and
part of a run's record.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.digest import sha256_file
from appliance.errors import CheckpointError, RuntimeMissingError
from appliance.policy.config import BYTE_VOCABULARY
from appliance.policy.presets import TrainConfig

PAD_TOKEN = 0


class Tokenizer(Protocol):
    """Turns a prompt into a fixed number of tokens."""

    @property
    def name(self) -> str:
        """``byte``, or ``sentencepiece:`` and the SHA-256 of the model file."""
        ...

    def encode(self, prompt: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """int32 [L] tokens, padded with 0, and bool [L], False on the padding."""
        ...


def clean_prompt(prompt: str) -> str:
    """The prompt as openpi cleans it: stripped, "_" and newline become a space."""
    return prompt.strip().replace("_", " ").replace("\n", " ")


def pad_tokens(tokens: list[int], length: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """``tokens`` cut or padded to ``length``, and the mask of real ones."""
    count = min(len(tokens), length)
    padded = np.full(length, PAD_TOKEN, dtype=np.int32)
    padded[:count] = tokens[:count]
    return padded, np.arange(length) < count


class ByteTokenizer:
    """Start token 1, then the UTF-8 bytes b of the prompt as b + 2, then a newline.

    A prompt that is too long loses its end.
    """

    name = "byte"
    vocabulary = BYTE_VOCABULARY
    start_token = 1
    byte_offset = 2

    def __init__(self, length: int) -> None:
        self.length = length

    def encode(self, prompt: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """int32 [L] tokens, padded with 0, and bool [L], False on the padding."""
        data = (clean_prompt(prompt) + "\n").encode("utf-8")
        return pad_tokens([self.start_token, *(b + self.byte_offset for b in data)], self.length)


class SentencePieceTokenizer:
    """PaliGemma's tokenizer from a model file: start token, prompt, newline token.

    ``vocabulary`` is the number of token rows the policy has; without an expected ``sha256`` the
    file's own names the tokenizer. Raises CheckpointError when the file
    is not the one expected, is no SentencePiece model or one with other tokens, and
    RuntimeMissingError when the ``sentencepiece`` package is missing.
    """

    def __init__(self, path: Path, sha256: str | None, length: int, vocabulary: int) -> None:
        found = check_tokenizer_digest(path, sha256)
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise RuntimeMissingError(
                "The package sentencepiece is not installed, but this configuration reads prompts"
                " with a SentencePiece model. Install it with `pip install sentencepiece`."
            ) from error
        try:
            self._processor = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise CheckpointError(
                f"{path}: not a SentencePiece model. Supply PaliGemma's tokenizer.model."
            ) from error
        size = self._processor.vocab_size()
        if size > vocabulary:
            raise CheckpointError(
                f"{path}: has {size} tokens, but the model has rows for {vocabulary}. Supply the"
                " tokenizer of this configuration."
            )
        if self._processor.bos_id() < 0:
            raise CheckpointError(
                f"{path}: has no start token, which every prompt begins with. Supply PaliGemma's"
                " tokenizer.model."
            )
        self.length = length
        self.name = f"sentencepiece:{found}"

    def encode(self, prompt: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """int32 [L] tokens, padded with 0, and bool [L], False on the padding."""
        tokens = self._processor.encode(clean_prompt(prompt), add_bos=True)
        return pad_tokens([*tokens, *self._processor.encode("\n")], self.length)


def check_tokenizer_digest(path: Path, sha256: str | None) -> str:
    """A tokenizer file's digest, compared with the recorded one. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: the tokenizer model is missing. Check train.tokenizer.path; PaliGemma's"
            " tokenizer.model is a file you supply."
        )
    found = sha256_file(path)
    if sha256 is not None and found != sha256:
        raise CheckpointError(
            f"{path}: the tokenizer model has SHA-256 {found}, but {sha256} was expected."
            " Supply the file the manifest names, or correct its digest."
        )
    return found


def make_tokenizer(
    config: TrainConfig, *, model_path: Path | None = None, model_sha256: str | None = None
) -> Tokenizer:
    """The tokenizer of a model file, or without one the preset's own.

    Raises CheckpointError as :class:`SentencePieceTokenizer` does, and RuntimeMissingError when the
    preset needs a SentencePiece model and none is given.
    """
    length = config.model.max_token_len
    if model_path is not None:
        return SentencePieceTokenizer(model_path, model_sha256, length, config.model.vocabulary)
    if config.tokenizer == "byte":
        return ByteTokenizer(length)
    raise RuntimeMissingError(
        f"train.config: {config.name} reads prompts with PaliGemma's SentencePiece model, which"
        " is not part of this project. Supply the file and its SHA-256, or choose a"
        " configuration with the byte tokenizer."
    )
