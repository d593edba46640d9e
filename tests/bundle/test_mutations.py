"""Any single change of a bundle is found, and the changed place is named.

The changes are drawn by hypothesis from the seed below, so that every run tries the same ones; a
failure names its kind and number. The law: exit code 21, and a finding whose path (or, for a new
name, whose text) names what was changed. An older bundle in the place of this one is found by who
asks for the right one.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from appliance.bundle.findings import Severity, VerifyReport
from appliance.bundle.inventory import take_inventory
from appliance.bundle.keys import load_key, read_own_key
from appliance.bundle.layout import ATTESTATION_FILE
from appliance.bundle.verify import Expected, judge, verify_bundle
from appliance.digest import list_files, sha256_bytes
from tests.bundle.sample import content_files, make_bundle, observed_files

SEED = 20261122
CHANGES = 2100
OLDER = ("other-content", "other-observed")

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


def remove_byte(draw: random.Random, bundle: Path) -> list[str]:
    name = any_file(draw, bundle, filled=True)
    data = bytearray((bundle / name).read_bytes())
    del data[draw.randrange(len(data))]
    (bundle / name).write_bytes(bytes(data))
    return [name]


def insert_byte(draw: random.Random, bundle: Path) -> list[str]:
    name = any_file(draw, bundle)
    data = bytearray((bundle / name).read_bytes())
    data.insert(draw.randint(0, len(data)), draw.randrange(256))
    (bundle / name).write_bytes(bytes(data))
    return [name]


def copy_under_another_name(draw: random.Random, bundle: Path) -> list[str]:
    name = any_file(draw, bundle)
    new = f"{name}.{draw.randrange(1000)}"
    shutil.copyfile(bundle / name, bundle / new)
    return [new]


def overwrite_by_another_file(draw: random.Random, bundle: Path) -> list[str]:
    first, second = draw.sample(list_files(bundle), 2)
    shutil.copyfile(bundle / first, bundle / second)
    return [second]


def move_to_another_folder(draw: random.Random, bundle: Path) -> list[str]:
    name = any_file(draw, bundle)
    folders = sorted(path for path in bundle.rglob("*") if path.is_dir())
    others = [path for path in folders if path != (bundle / name).parent]
    target = draw.choice(others) / Path(name).name
    (bundle / name).rename(target)
    new = target.relative_to(bundle).as_posix()
    return [ATTESTATION_FILE] if name == ATTESTATION_FILE else [name, new]


def rename_folder(draw: random.Random, bundle: Path) -> list[str]:
    folders = sorted(path for path in bundle.rglob("*") if path.is_dir())
    folder = draw.choice(folders)
    held = [path.relative_to(bundle).as_posix() for path in folder.rglob("*") if path.is_file()]
    folder.rename(folder.with_name(folder.name.upper()))
    return held


def add_folder(draw: random.Random, bundle: Path) -> list[str]:
    folder = any_file(draw, bundle).rpartition("/")[0]
    name = f"{folder}/empty-{draw.randrange(1000)}".lstrip("/")
    (bundle / name).mkdir()
    return [name]


def change_mode(draw: random.Random, bundle: Path) -> list[str]:
    path = draw.choice(sorted(bundle.rglob("*")))
    usual = 0o755 if path.is_dir() else 0o644
    path.chmod(draw.choice([mode for mode in range(0o400, 0o10000) if mode != usual]) | 0o400)
    if path.stat().st_mode & 0o7777 == usual:
        path.chmod(0o700)
    return [path.relative_to(bundle).as_posix()]


def swap_attestation(draw: random.Random, bundle: Path) -> list[str]:
    """One signed file of another bundle by the same signer, in the place of this one's."""
    other = bundle.parent / draw.choice(OLDER)
    names = [
        name
        for name in list_files(bundle)
        if name.startswith("attestations/") or name.endswith((".sigstore.json", ".sig"))
        if (other / name).read_bytes() != (bundle / name).read_bytes()
    ]
    name = draw.choice(names)
    shutil.copyfile(other / name, bundle / name)
    return [] if name == ATTESTATION_FILE else [name]


def roll_back(draw: random.Random, bundle: Path) -> list[str]:
    """Another bundle of the same name and signer, whole, in the place of this one."""
    other = bundle.parent / draw.choice(OLDER)
    shutil.rmtree(bundle)
    shutil.copytree(other, bundle)
    return [ATTESTATION_FILE]


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
        remove_byte,
        insert_byte,
        copy_under_another_name,
        overwrite_by_another_file,
        move_to_another_folder,
        rename_folder,
        add_folder,
        change_mode,
        swap_attestation,
        roll_back,
    )
}


class Victim:
    """A copy of the pristine bundle that is spoiled again and again, beside older ones.

    ``restore`` puts back only what is not as it was, so that thousands of changes are quick.
    """

    def __init__(self, pristine: Path, base: Path) -> None:
        self.pristine = pristine / "bundle"
        self.path = base / "bundle"
        shutil.copytree(self.pristine, self.path)
        key = load_key(pristine / "keys")
        changed = {**content_files(), "train/hash_chain.jsonl": b"{}\n"}
        made = [
            make_bundle(base, key=key, name=OLDER[0], content=changed),
            make_bundle(
                base,
                key=key,
                name=OLDER[1],
                observed=observed_files("earlier"),
                registered_on="2025-01-01T00:00:00Z",
            ),
        ]
        assert all(verify_bundle(each.path, key_dir=pristine / "keys").trusted for each in made)
        self.names = {path.relative_to(self.pristine) for path in self.pristine.rglob("*")}
        self.stamps = self._stamps()

    def restore(self) -> None:
        if not self.path.is_dir():
            self.path.mkdir()
        for path in sorted(self.path.rglob("*"), reverse=True):
            name = path.relative_to(self.path)
            wrong_kind = path.is_symlink() or path.is_dir() != (self.pristine / name).is_dir()
            if name not in self.names or wrong_kind:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for name in sorted(self.names):
            source, path = self.pristine / name, self.path / name
            if source.is_dir():
                path.mkdir(exist_ok=True)
            elif not path.exists() or self._stamp(path) != self.stamps[name]:
                shutil.copyfile(source, path)
            path.chmod(source.stat().st_mode & 0o7777)
        self.stamps = self._stamps()

    def _stamps(self) -> dict[Path, tuple[int, int]]:
        return {
            name: self._stamp(self.path / name)
            for name in self.names
            if (self.pristine / name).is_file()
        }

    @staticmethod
    def _stamp(path: Path) -> tuple[int, int]:
        status = path.stat()
        return status.st_size, status.st_ctime_ns


@pytest.fixture(scope="module")
def victim(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Victim:
    return Victim(pristine, tmp_path_factory.mktemp("victim"))


@pytest.fixture(scope="module")
def right(victim: Victim) -> Expected:
    """What a reader knows of the right bundle, from where the result was published."""
    report = verify_bundle(victim.path)
    return Expected(
        content_digest=report.content_digest, attestation_sha256=report.attestation_sha256
    )


def is_named(name: str, report: VerifyReport) -> bool:
    return any(
        finding.path == name or name in finding.message
        for finding in report.findings
        if finding.severity is Severity.ERROR
    )


@pytest.mark.slow
def test_any_single_change_is_found_and_named(
    victim: Victim, right: Expected, pristine: Path
) -> None:
    """Only for a whole older bundle the check is told which bundle it should be."""
    counted: Counter[str] = Counter()

    @seed(SEED)
    @settings(
        max_examples=CHANGES,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.explicit, Phase.generate],
    )
    @given(kind=st.sampled_from(sorted(MUTATIONS)), number=st.integers(0, 2**32))
    def try_one(kind: str, number: int) -> None:
        expected = right if kind == roll_back.__name__ else Expected()
        try:
            names = MUTATIONS[kind](random.Random(number), victim.path)
            report = verify_bundle(victim.path, key_dir=pristine / "keys", expected=expected)
        finally:
            victim.restore()
        assert report.exit_code == 21, (kind, number, names)
        assert any(finding.path for finding in report.findings), (kind, number)
        for name in names:
            assert is_named(name, report), (kind, number, name, report.findings)
        counted[kind] += 1

    try_one()
    assert counted.total() >= 2000
    assert set(counted) == set(MUTATIONS)
    assert min(counted.values()) >= 20, counted
    report = verify_bundle(victim.path, key_dir=pristine / "keys")
    assert report.trusted
    assert report.findings == ()


@pytest.mark.parametrize("older", OLDER)
def test_older_bundle_of_the_same_name_is_trusted_unless_the_right_one_is_asked_for(
    victim: Victim, right: Expected, pristine: Path, older: str
) -> None:
    place = victim.path.parent / older
    assert verify_bundle(place, key_dir=pristine / "keys").trusted
    report = verify_bundle(place, key_dir=pristine / "keys", expected=right)
    assert report.exit_code == 21
    assert {f.code for f in report.findings} == {"other-bundle"}


def test_every_part_of_the_attestation_counts(pristine: Path) -> None:
    """No byte of the attestation can change without the bundle being found not intact.

    Every byte around the payload is tried, and every 25th of the payload, with one bit each.
    """
    inventory = take_inventory(pristine / "bundle", lambda _: 1 << 20)
    trusted = read_own_key(pristine / "keys")
    data = inventory.kept[ATTESTATION_FILE]
    start = data.index(b'"payload":') + len(b'"payload":')
    payload = range(start + 1, data.index(b'"', start + 1))
    draw = random.Random(0)
    for place in (place for place in range(len(data)) if place not in payload or place % 25 == 0):
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
