"""The passphrase of an encrypted signing key: from a file or from the person, never from a flag."""

from __future__ import annotations

import getpass
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.errors import SigningKeyError

if TYPE_CHECKING:
    from appliance.bundle.keys import Passphrase

PassphraseFileOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="File whose first line opens an encrypted signing key. Default: asked in a terminal.",
    ),
]


def find_passphrase(path: Path | None) -> Passphrase | None:
    """How to get the passphrase when it is needed; None when there is neither file nor terminal."""
    if path is not None:
        return lambda _: read_passphrase(path)
    if sys.stdin.isatty():
        return lambda key: _ask(f"Passphrase of {key}: ")
    return None


def ask_new_passphrase(path: Path | None) -> bytes:
    """A passphrase for a new key, typed twice unless a file holds it. Raises SigningKeyError."""
    if path is not None:
        return read_passphrase(path)
    if not sys.stdin.isatty():
        raise SigningKeyError(
            "There is no terminal to ask for a passphrase in. Give the file that holds it with"
            " --passphrase-file."
        )
    first = _ask("New passphrase: ")
    if first != _ask("The same again: "):
        raise SigningKeyError("The two passphrases differ. No key was made; try again.")
    return first


def _ask(prompt: str) -> bytes:
    try:
        return getpass.getpass(prompt).encode("utf-8")
    except EOFError as error:
        raise typer.Abort from error


def read_passphrase(path: Path) -> bytes:
    """The first line of a file that nobody else can read. Raises SigningKeyError."""
    from appliance.bundle.keys import MAX_PASSPHRASE_BYTES

    try:
        with path.open("rb") as stream:
            mode = path.stat().st_mode
            line = stream.readline(MAX_PASSPHRASE_BYTES + len(b"\r\n"))
    except OSError as error:
        raise SigningKeyError(
            f"{path}: the passphrase cannot be read ({error.strerror}). Check the path."
        ) from error
    if stat.S_ISREG(mode) and mode & 0o077:
        raise SigningKeyError(
            f"{path}: other users can read this passphrase. Run: chmod 600 '{path}'"
        )
    passphrase = line.rstrip(b"\r\n")
    if not 0 < len(passphrase) <= MAX_PASSPHRASE_BYTES:
        raise SigningKeyError(
            f"{path}: its first line is empty or too long for a passphrase. Write one of 1 to"
            f" {MAX_PASSPHRASE_BYTES} bytes there."
        )
    return passphrase
