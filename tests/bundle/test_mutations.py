"""Any single change of a bundle is found, and the changed place is named.

The changes are drawn by hypothesis, which prints the seed of a failure. The law: exit code 21, and
a finding whose path (or, for a new name, whose text) names what was changed.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.bundle.findings import Severity, VerifyReport
from appliance.bundle.inventory import take_inventory
from appliance.bundle.keys import read_own_key
from appliance.bundle.layout import ATTESTATION_FILE
from appliance.bundle.verify import judge, verify_bundle
from appliance.digest import list_files, sha256_bytes

Mutation = Callable[[random.Random, Path], list[str]]


def any_file(draw: random.Random, bundle: Path, *, filled: bool = False) -> str:
    names = list_files(bundle)
    return draw.choice([name for name in names if not filled or (bundle / name).stat().st_size])


def flip_bit(draw: random.Random, bundle: Path) -> list[str]:
    name = any_file(draw, bundle, filled=True)
    data = bytearray((bundle / name).read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    (bundle / name).write_bytes(bytes(data))
    return [name]


def truncate(draw: random.Random, bundle: Path) -> list[str]:
    name = any_file(draw, bundle, filled=True)
    data = (bundle / name).read_bytes()
    (bundle / name).write_bytes(data[: draw.randrange(len(data))])
    return [name]


def append(draw: random.Random, bundle: Path) -> list[str]:
    name = any_file(draw, bundle)
    with (bundle / name).open("ab") as stream:
        stream.write(draw.choice([b"\n", b"\0", b" ", draw.randbytes(20)]))
    return [name]


def swap_bytes(draw: random.Random, bundle: Path) -> list[str]:
    name = any_file(draw, bundle, filled=True)
    data = bytearray((bundle / name).read_bytes())
    first = draw.randrange(len(data))
    others = [place for place in range(len(data)) if data[place] != data[first]]
    if not others:
        return flip_bit(draw, bundle)
    second = draw.choice(others)
    data[first], data[second] = data[second], data[first]
    (bundle / name).write_bytes(bytes(data))
    return [name]


def swap_files(draw: random.Random, bundle: Path) -> list[str]:
    first, second = draw.sample(list_files(bundle), 2)
    held = (bundle / first).read_bytes()
    (bundle / first).write_bytes((bundle / second).read_bytes())
    (bundle / second).write_bytes(held)
    return [ATTESTATION_FILE] if ATTESTATION_FILE in (first, second) else [first, second]


def remove(draw: random.Random, bundle: Path) -> list[str]:
    name = any_file(draw, bundle)
    (bundle / name).unlink()
    return [name]


def add(draw: random.Random, bundle: Path) -> list[str]:
    folder = any_file(draw, bundle).rpartition("/")[0]
    name = f"{folder}/added-{draw.randrange(1000)}".lstrip("/")
    (bundle / name).write_bytes(draw.randbytes(draw.randrange(5)))
    return [name]


def rename(draw: random.Random, bundle: Path) -> list[str]:
    name = any_file(draw, bundle)
    new = f"{name.rpartition('/')[0]}/renamed".lstrip("/")
    (bundle / name).rename(bundle / new)
    return [ATTESTATION_FILE] if name == ATTESTATION_FILE else [name, new]


def change_case(draw: random.Random, bundle: Path) -> list[str]:
    name = any_file(draw, bundle)
    new = name.rpartition("/")[0] + "/" + name.rpartition("/")[2].swapcase()
    (bundle / name).rename(bundle / new.lstrip("/"))
    return [ATTESTATION_FILE] if name == ATTESTATION_FILE else [name, new.lstrip("/")]


def replace_by_link(draw: random.Random, bundle: Path) -> list[str]:
    name = any_file(draw, bundle)
    elsewhere = bundle.parent / "elsewhere"
    shutil.copy(bundle / name, elsewhere)
    (bundle / name).unlink()
    (bundle / name).symlink_to(elsewhere)
    return [name]


MUTATIONS: dict[str, Mutation] = {
    function.__name__: function
    for function in (
        flip_bit,
        truncate,
        append,
        swap_bytes,
        swap_files,
        remove,
        add,
        rename,
        change_case,
        replace_by_link,
    )
}


def is_named(name: str, report: VerifyReport) -> bool:
    return any(
        finding.path == name or name in finding.message
        for finding in report.findings
        if finding.severity is Severity.ERROR
    )


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(sorted(MUTATIONS)), seed=st.integers(0, 2**32))
def test_any_single_change_is_found_and_named(pristine: Path, kind: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        shutil.copytree(pristine / "bundle", bundle)
        names = MUTATIONS[kind](random.Random(seed), bundle)
        report = verify_bundle(bundle, key_dir=pristine / "keys")
        assert report.exit_code == 21, (kind, seed, names)
        for name in names:
            assert is_named(name, report), (kind, seed, name, report.findings)


def test_every_part_of_the_attestation_counts(pristine: Path) -> None:
    """No byte of the attestation can change without the bundle being found not intact.

    Every byte around the payload is tried, and every fifth of the payload, with one bit each.
    """
    inventory = take_inventory(pristine / "bundle", lambda _: True)
    trusted = read_own_key(pristine / "keys")
    data = inventory.kept[ATTESTATION_FILE]
    start = data.index(b'"payload":') + len(b'"payload":')
    payload = range(start + 1, data.index(b'"', start + 1))
    draw = random.Random(0)
    for place in (place for place in range(len(data)) if place not in payload or place % 5 == 0):
        spoiled = bytearray(data)
        spoiled[place] ^= 1 << draw.randrange(8)
        changed = replace(
            inventory,
            kept={**inventory.kept, ATTESTATION_FILE: bytes(spoiled)},
            digests={**inventory.digests, ATTESTATION_FILE: sha256_bytes(bytes(spoiled))},
        )
        report = judge(pristine, changed, trusted)
        assert report.exit_code == 21, place
        assert is_named(ATTESTATION_FILE, report), place
