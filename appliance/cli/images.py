"""`image build, inspect, sbom, compare`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from appliance.cli.places import user_cache_dir
from appliance.engine.build import BuildRequest, build_image
from appliance.engine.image_files import list_differences, read_image_files
from appliance.errors import ImageError
from appliance.files import write_atomic
from appliance.stages.image_sbom import describe_image
from appliance.stages.images import ImageEnvironment, open_image

_SHOWN = 20


def build(request: BuildRequest, *, as_json: bool) -> None:
    """Build an image and say what it is. Raises ImageError, RuntimeMissingError."""
    build_image(request)
    inspect(request.image_name, as_json=as_json)


def inspect(name: str, *, as_json: bool) -> None:
    """Say what an image is and what is installed in it. Raises ImageError."""
    opened = open_image(name, None, user_cache_dir())
    if as_json:
        _print_json({**opened.image, "installed": dict(opened.inventory.value)})
    else:
        typer.echo(describe(opened))


def describe(opened: ImageEnvironment) -> str:
    """An image as text."""
    value = opened.inventory.value
    matter = [item for item in value["distributions"] if "files" in item]
    changed = opened.inventory.changed_files
    lines = [
        opened.found.name,
        f"  id             {opened.found.id}",
        f"  digest         {opened.found.digest or 'none: from no registry by this name'}",
        f"  holds          {opened.inventory.digest}",
        f"  appliance      {value['appliance']}, Python {value['python']}, {value['libc']}",
        f"  system         {value['system']['name']}, {len(value['system']['packages'])} packages",
        f"  distributions  {len(value['distributions'])}, installed files of {len(matter)} hashed",
        *(f"    {item['name']:<24} {item['version']}" for item in matter),
        "  not what their package promises: " + ("none" if not changed else ""),
        *(f"    {package}: {', '.join(files)}" for package, files in sorted(changed.items())),
        f"  pin it with    runtime.image_digest: {opened.found.digest or opened.found.id}",
    ]
    return "\n".join(lines)


def sbom(name: str, output: Path | None) -> None:
    """Print or write the CycloneDX document of an image. Raises ImageError, StorageError."""
    opened = open_image(name, None, user_cache_dir())
    text = json.dumps(describe_image(opened.found, opened.inventory), indent=2, sort_keys=True)
    if output is None:
        typer.echo(text)
        return
    write_atomic(output, text.encode() + b"\n", doing="writing the bill of materials")
    typer.echo(f"Bill of materials written to {output}")


def compare(first: str, second: str, *, as_json: bool) -> None:
    """Compare every file of two images. Raises ImageError when they differ."""
    sides = read_image_files(first), read_image_files(second)
    differences = list_differences(*sides)
    if as_json:
        images = [{"name": each.name, "id": each.id, "files": each.digest} for each in sides]
        _print_json({"equal": not differences, "images": images, "differences": differences})
    else:
        for each in sides:
            typer.echo(f"{each.name}: {len(each.files)} files, {each.digest}")
    if differences:
        listed = "\n".join(f"  {line}" for line in differences[:_SHOWN])
        raise ImageError(f"{len(differences)} files differ:\n{listed}")
    if not as_json:
        typer.echo("Every file is the same.")


def _print_json(value: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2, sort_keys=True))
