"""The commands of the group ``image``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from appliance.cli.groups import WholeHelpGroup
from appliance.cli.options import JsonOption

image_app = typer.Typer(
    cls=WholeHelpGroup, no_args_is_help=True, help="Container images stages can run in."
)

ImageArgument = Annotated[
    str,
    typer.Argument(help="An image: name, or id.", metavar="IMAGE", show_default=False),
]


@image_app.command("build")
def build_command(
    *,
    variant: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="Render in software, or use an NVIDIA GPU.")
    ] = "cpu",
    name: Annotated[
        str | None, typer.Option(help="Default: plan-star-appliance:<variant>.")
    ] = None,
    base_image: Annotated[
        str | None,
        typer.Option(
            help="Debian 12, or a newer one that has Python 3.11. Default: the Dockerfile's, by"
            " digest."
        ),
    ] = None,
    build_arg: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE: another build argument (docker/README.md). Repeatable."),
    ] = None,
    certificates: Annotated[
        Path | None,
        typer.Option(help="Trusted while building, in no layer. Default: this system's."),
    ] = None,
    network: Annotated[
        Literal["default", "host"], typer.Option(help="The builder's network.")
    ] = "default",
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Reuse layers.")] = True,
    source: Annotated[
        Path | None, typer.Option(help="A checkout of this project. Default: this one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build an image from docker/ and say what is in it."""
    from appliance.cli.images import build
    from appliance.engine.build import BuildRequest

    arguments = dict(_split(pair) for pair in build_arg or ())
    if base_image is not None:
        arguments["BASE_IMAGE"] = base_image
    request = BuildRequest(
        variant=variant,
        source_dir=(source or Path(__file__).parents[2]).resolve(),
        name=name,
        arguments=arguments,
        certificates=certificates,
        network=network,
        use_cache=cache,
    )
    build(request, as_json=as_json)


@image_app.command("inspect")
def inspect_command(image: ImageArgument, as_json: JsonOption = False) -> None:
    """Say what an image is, what is installed in it, and what an installer changed."""
    from appliance.cli.images import inspect

    inspect(image, as_json=as_json)


@image_app.command("sbom")
def sbom_command(
    image: ImageArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it here, not to stdout.")
    ] = None,
) -> None:
    """Print the bill of materials of an image (CycloneDX 1.6, JSON)."""
    from appliance.cli.images import sbom

    sbom(image, output)


@image_app.command("compare")
def compare_command(
    first: ImageArgument, second: ImageArgument, as_json: JsonOption = False
) -> None:
    """Say whether every file of two images is the same: content, mode, owner, links."""
    from appliance.cli.images import compare

    compare(first, second, as_json=as_json)


def _split(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{pair}: not NAME=VALUE", param_hint="--build-arg")
    return name, value
