"""`keys create`, `keys show`, `keys trust`, `keys untrust`."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from appliance.bundle import keys
from appliance.cli.passphrase import ask_new_passphrase


def create(key_dir: Path | None, *, encrypt: bool, passphrase_file: Path | None) -> None:
    """Make the signing key and print its id."""
    folder = key_dir or keys.default_key_dir()
    passphrase = ask_new_passphrase(passphrase_file) if encrypt else None
    key = keys.create_key(folder, passphrase=passphrase)
    kind = "encrypted" if encrypt else "not encrypted"
    typer.echo(f"Made ({kind}, mode 0600): {folder / keys.PRIVATE_KEY_FILE}")
    typer.echo(f"key id  {key.key_id}\npublic  {folder / keys.PUBLIC_KEY_FILE}")


def show(key_dir: Path | None, *, as_json: bool) -> None:
    """Print the public key, its id, and the trusted ids."""
    folder = key_dir or keys.default_key_dir()
    own = list(keys.read_own_key(folder).keys.values())
    # An encrypted key is not opened to show its public half.
    key = own[0] if own else keys.load_or_create_key(folder).public
    trusted = keys.list_trusted(folder)
    if as_json:
        value = {
            "key_id": key.key_id,
            "public_key": key.pem.decode("ascii"),
            "folder": str(folder),
            "trusted": sorted(trusted),
        }
        typer.echo(json.dumps(value, indent=2))
        return
    typer.echo(f"key id  {key.key_id}\nfolder  {folder}\n{key.pem.decode('ascii')}", nl=False)
    for key_id in sorted(trusted):
        typer.echo(f"trusted {key_id}")


def trust(public_key: Path, key_dir: Path | None) -> None:
    """Add a public key to the trusted ones."""
    key_id = keys.trust_key(public_key, key_dir or keys.default_key_dir())
    typer.echo(f"Trusted: {key_id}")


def untrust(key_id: str, key_dir: Path | None) -> None:
    """Remove a public key from the trusted ones."""
    keys.untrust_key(key_id, key_dir or keys.default_key_dir())
    typer.echo(f"No longer trusted: {key_id}")
