"""The commands about bundles and keys, as the command line declares them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.groups import WholeHelpGroup
from appliance.cli.options import JsonOption
from appliance.cli.passphrase import PassphraseFileOption

bundle_app = typer.Typer(
    cls=WholeHelpGroup, no_args_is_help=True, help="Pack a bundle into one file, and unpack it."
)

BundleArgument = Annotated[
    Path,
    typer.Argument(help="The bundle: its folder or archive.", metavar="BUNDLE", show_default=False),
]
KeyOption = Annotated[
    Path | None, typer.Option("--key", help="Public key (PEM) of the signer you trust.")
]
KeyDirOption = Annotated[
    Path | None,
    typer.Option("--key-dir", help="Folder of the signing key and the trusted keys."),
]


def verify(
    bundle: BundleArgument,
    *,
    key: KeyOption = None,
    key_dir: KeyDirOption = None,
    trust_dir: Annotated[
        Path | None,
        typer.Option(
            "--trust-dir", help="Folder of trusted public keys. Default: KEY_DIR/trusted."
        ),
    ] = None,
    content_digest: Annotated[
        str | None,
        typer.Option("--content-digest", help="The result it must be, as `run` printed it."),
    ] = None,
    attestation: Annotated[
        str | None,
        typer.Option("--attestation", help="SHA-256 of the attestation it must have."),
    ] = None,
    countersignature: Annotated[
        list[Path] | None,
        typer.Option("--countersignature", help="A countersignature that lies elsewhere."),
    ] = None,
    ignore_modes: Annotated[
        bool,
        typer.Option("--ignore-modes", help="Only warn of changed permissions."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every byte of a bundle, its signature, and where it comes from."""
    from appliance.bundle.verify import Expected
    from appliance.cli.bundles import verify_bundle_folder

    verify_bundle_folder(
        bundle,
        key=key,
        key_dir=key_dir,
        trust_dir=trust_dir,
        expected=Expected(
            content_digest=content_digest,
            attestation_sha256=attestation,
            ignore_modes=ignore_modes,
        ),
        countersignatures=countersignature or (),
        as_json=as_json,
    )


def countersign(
    bundle: BundleArgument,
    *,
    key: KeyOption = None,
    key_dir: KeyDirOption = None,
    passphrase_file: PassphraseFileOption = None,
    replay: Annotated[
        Path | None,
        typer.Option("--replay", help="A replay's verdict (`replay --json`) to sign."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: next to the bundle.")
    ] = None,
) -> None:
    """Verify somebody's bundle and sign that you did, in a file beside it."""
    from appliance.cli.bundles import countersign as countersign_bundle

    countersign_bundle(
        bundle,
        key=key,
        key_dir=key_dir,
        passphrase_file=passphrase_file,
        replay=replay,
        output=output,
    )


@bundle_app.command("pack")
def bundle_pack(
    bundle: BundleArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: BUNDLE.tar.gz.")
    ] = None,
) -> None:
    """Write a bundle as one .tar.gz file: equal bundles give equal bytes."""
    from appliance.cli.bundles import pack

    pack(bundle, output)


@bundle_app.command("unpack")
def bundle_unpack(
    archive: Annotated[
        Path,
        typer.Argument(help="The archive of a bundle.", metavar="ARCHIVE", show_default=False),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: beside the archive.")
    ] = None,
) -> None:
    """Unpack an archive into a new folder, and nowhere else."""
    from appliance.cli.bundles import unpack

    unpack(archive, output)


def keys_create(
    *,
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help="Encrypt it with a passphrase, asked for twice.")
    ] = False,
    passphrase_file: PassphraseFileOption = None,
    key_dir: KeyDirOption = None,
) -> None:
    """Make the signing key; an existing one is never replaced."""
    from appliance.cli.keys import create

    create(key_dir, encrypt=encrypt or passphrase_file is not None, passphrase_file=passphrase_file)


def add_bundle_commands(app: typer.Typer, keys_app: typer.Typer) -> None:
    """Declare everything here on the program and on its group ``keys``."""
    app.command("verify")(verify)
    app.command("countersign")(countersign)
    app.add_typer(bundle_app, name="bundle")
    keys_app.command("create")(keys_create)
