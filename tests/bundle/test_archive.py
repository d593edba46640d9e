from __future__ import annotations

import gzip
import io
import random
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.bundle import archive as room
from appliance.bundle.archive import ArchiveError, pack_bundle, read_members, unpack_bundle
from appliance.bundle.assemble import BundleSources, write_bundle
from appliance.bundle.findings import Verdict
from appliance.bundle.keys import load_or_create_key
from appliance.bundle.layout import BundleContentError, find_clash, find_name_clashes
from appliance.bundle.verify import verify_bundle
from appliance.digest import digest_files, sha256_bytes, sha256_file
from appliance.errors import NotABundleError, StorageError
from tests.bundle.sample import content_files, make_bundle


@pytest.fixture(scope="module")
def packed(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "bundle.tar.gz"
    pack_bundle(pristine / "bundle", path)
    return path


def names_of(path: Path) -> list[str]:
    return [member.name for member in read_members(path)]


def compress(data: bytes) -> bytes:
    """As gzip, with the one header, so that only what a test is about is wrong."""
    packed = gzip.compress(data, mtime=0)
    return room.GZIP_HEADER + packed[len(room.GZIP_HEADER) :]


def repack(path: Path, target: Path, edit: Callable[[bytes], bytes]) -> Path:
    target.write_bytes(compress(edit(gzip.decompress(path.read_bytes()))))
    return target


def write_tar(target: Path, entries: list[tuple[tarfile.TarInfo, bytes]], form: int) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, data in entries:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    target.write_bytes(compress(buffer.getvalue()))
    return target


def write_members(target: Path, names: list[str]) -> Path:
    """An archive in the one form, of empty files with these names."""
    members = b"".join(room._make_header(name, 0) for name in names)
    target.write_bytes(compress(members + bytes(room.END_BYTES)))
    return target


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o644
    return info


def test_unpacking_gives_back_every_file(packed: Path, pristine: Path, tmp_path: Path) -> None:
    unpack_bundle(packed, tmp_path / "out")
    assert digest_files(tmp_path / "out") == digest_files(pristine / "bundle")
    assert verify_bundle(tmp_path / "out", key_dir=pristine / "keys").findings == ()


def test_archive_is_verified_without_being_unpacked(packed: Path, pristine: Path) -> None:
    folder = verify_bundle(pristine / "bundle", key_dir=pristine / "keys")
    report = verify_bundle(packed, key_dir=pristine / "keys")
    assert report.verdict is Verdict.TRUSTED
    assert (report.content_digest, report.claims) == (folder.content_digest, folder.claims)
    assert report.checks == folder.checks


def test_equal_bundles_give_equal_archives(packed: Path, pristine: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "copy"
    unpack_bundle(packed, copy)
    (copy / "VERIFY.md").chmod(0o600)
    digest = pack_bundle(copy, tmp_path / "again.tar.gz")
    assert digest == sha256_file(packed) == sha256_bytes(packed.read_bytes())
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["again.tar.gz"]


def test_other_programs_read_the_archive(packed: Path, pristine: Path) -> None:
    with tarfile.open(packed) as tar:
        names = sorted(member.name for member in tar)
    assert names == [f"audit-bundle/{name}" for name in sorted(digest_files(pristine / "bundle"))]


def test_long_names_survive(tmp_path: Path) -> None:
    long = "/".join(["d" * 90] * 7 + ["file.json"])
    made = make_bundle(tmp_path, content={**content_files(), long: b"x"})
    pack_bundle(made.path, tmp_path / "a.tar.gz")
    unpack_bundle(tmp_path / "a.tar.gz", tmp_path / "out")
    assert (tmp_path / "out" / "content" / long).read_bytes() == b"x"
    assert verify_bundle(tmp_path / "a.tar.gz", key_dir=tmp_path / "keys").trusted


@pytest.mark.parametrize("size_bytes", [0, 1, 511, 512, 2**33, 2**40])
def test_header_of_any_size_is_read_back(size_bytes: int) -> None:
    data = zlib.compress(room._make_header("a", size_bytes), wbits=31)
    member = room._read_header(room._Inflater(io.BytesIO(data), len(data)))
    assert member is not None
    assert (member.name, member.size_bytes) == ("a", size_bytes)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    "bad",
    [
        entry("/etc/passwd"),
        entry("../outside"),
        entry("audit-bundle/../outside"),
        entry("audit-bundle//x"),
        entry("elsewhere/x"),
        entry("audit-bundle/link", tarfile.SYMTYPE, "/etc/passwd"),
        entry("audit-bundle/link", tarfile.LNKTYPE, "../outside"),
        entry("audit-bundle/pipe", tarfile.FIFOTYPE),
        entry("audit-bundle/device", tarfile.CHRTYPE),
        entry("audit-bundle/disk", tarfile.BLKTYPE),
        entry("audit-bundle/folder", tarfile.DIRTYPE),
        entry("audit-bundle/sparse", tarfile.GNUTYPE_SPARSE),
        entry("audit-bundle/odd", b"Z"),
        entry("audit-bundle/a:b"),
        entry("audit-bundle/x/" * 2 + "y" * 90 + "."),
    ],
    ids=lambda info: f"{info.name[:24]}-{info.type!r}",
)
def test_entry_that_is_no_plain_file_inside_is_refused(
    tmp_path: Path, bad: tarfile.TarInfo, form: int
) -> None:
    path = write_tar(tmp_path / "bad.tar.gz", [(entry("audit-bundle/a"), b"x"), (bad, b"")], form)
    with pytest.raises(NotABundleError):
        unpack_bundle(path, tmp_path / "place" / "out")
    assert not (tmp_path / "place" / "out").exists()
    assert list((tmp_path / "place").iterdir()) == []
    assert verify_bundle(path, key_dir=tmp_path).exit_code in (20, 21)


@pytest.mark.parametrize("field", ["mode", "uid", "mtime", "uname", "pax"])
def test_entry_with_other_metadata_is_refused(tmp_path: Path, field: str) -> None:
    info = entry("audit-bundle/a")
    if field == "pax":
        info.pax_headers = {"comment": "hello"}
    elif field == "uname":
        info.uname = "somebody"
    else:
        setattr(info, field, 7)
    path = write_tar(tmp_path / "bad.tar.gz", [(info, b"x")], tarfile.PAX_FORMAT)
    with pytest.raises(ArchiveError, match="not a plain file"):
        names_of(path)


@pytest.mark.parametrize("order", [["b", "a"], ["a", "a"]])
def test_files_out_of_order_or_twice_are_refused(tmp_path: Path, order: list[str]) -> None:
    entries = [(entry(f"audit-bundle/{name}"), b"x") for name in order]
    path = write_tar(tmp_path / "bad.tar.gz", entries, tarfile.PAX_FORMAT)
    with pytest.raises(ArchiveError, match="ascending"):
        names_of(path)


@pytest.mark.parametrize(
    "names",
    [
        ["a", "a/b"],
        ["a", "a-c", "a.d", "a/b"],
        ["A", "a"],
        ["A/x", "B", "a/y"],
        ["A/x", "B", "a"],
        ["A", "B", "a/b/c"],
        ["A/B/c", "A/C", "A/b", "b"],
    ],
    ids="+".join,
)
def test_files_whose_names_clash_are_refused_before_the_second_is_written(
    tmp_path: Path, names: list[str]
) -> None:
    assert find_name_clashes(names)
    path = write_members(tmp_path / "bad.tar.gz", names)
    with pytest.raises(ArchiveError, match="cannot keep"):
        names_of(path)
    with pytest.raises(NotABundleError, match="cannot keep"):
        unpack_bundle(path, tmp_path / "out")
    assert [found.name for found in tmp_path.iterdir()] == ["bad.tar.gz"]


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "A", "b", "a-", "a.x"]), min_size=1, max_size=3).map(
            "/".join
        ),
        max_size=6,
    )
)
def test_archive_is_read_exactly_if_no_two_names_in_it_clash(names: list[str]) -> None:
    ordered = sorted(set(names))
    clash = any(find_clash(one, other) for one, other in combinations(ordered, 2))
    assert bool(find_name_clashes(names)) is clash
    with tempfile.TemporaryDirectory() as folder:
        path = write_members(Path(folder) / "x.tar.gz", ordered)
        if clash:
            with pytest.raises(ArchiveError, match="cannot keep"):
                names_of(path)
        else:
            assert names_of(path) == ordered


@pytest.mark.parametrize(
    "edit",
    [
        lambda tar: tar[:-1],
        lambda tar: tar[:-1024],
        lambda tar: tar[:-512],
        lambda tar: tar + bytes(512),
        lambda tar: tar[:-1] + b"x",
        lambda tar: tar[: 512 + 700] + tar[512 + 701 :],
        lambda tar: b"\0" * 1024 + tar,
        lambda tar: b"x" * 512 + tar,
        lambda _: b"",
    ],
)
def test_damaged_tar_is_refused(
    packed: Path, tmp_path: Path, edit: Callable[[bytes], bytes]
) -> None:
    path = repack(packed, tmp_path / "bad.tar.gz", edit)
    with pytest.raises(ArchiveError):
        names_of(path)
    with pytest.raises(NotABundleError):
        unpack_bundle(path, tmp_path / "out")


@pytest.mark.parametrize(
    "tail", [b"x", b"\0", gzip.compress(b"", mtime=0), gzip.compress(b"more", mtime=0)]
)
def test_bytes_after_the_archive_are_refused(packed: Path, tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "bad.tar.gz"
    path.write_bytes(packed.read_bytes() + tail)
    with pytest.raises(ArchiveError, match="follows"):
        names_of(path)


def test_random_damage_is_never_taken_for_intact(
    packed: Path, pristine: Path, tmp_path: Path
) -> None:
    """Any bit of the compressed file may flip, but no file inside is then other than signed."""
    data = packed.read_bytes()
    good = digest_files(pristine / "bundle")
    draw = random.Random(0)
    path = tmp_path / "bad.tar.gz"
    for _ in range(150):
        spoiled = bytearray(data)
        spoiled[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(spoiled)
        report = verify_bundle(path, key_dir=pristine / "keys")
        if report.intact:
            found = {m.name: sha256_bytes(m.read(m.size_bytes)) for m in read_members(path)}
            assert found == good
    for _ in range(30):
        path.write_bytes(data[: draw.randrange(len(data))])
        assert not verify_bundle(path, key_dir=pristine / "keys").intact


def test_every_bit_of_the_compressed_header_counts(packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    for bit in range(8 * 10):
        spoiled = bytearray(data)
        spoiled[bit // 8] ^= 1 << bit % 8
        (tmp_path / "bad.tar.gz").write_bytes(spoiled)
        with pytest.raises(ArchiveError, match="header"):
            names_of(tmp_path / "bad.tar.gz")


def test_bundle_with_a_large_empty_file_is_not_taken_for_a_bomb(tmp_path: Path) -> None:
    """What was packed can be unpacked, however well it would compress."""
    key = load_or_create_key(tmp_path / "keys")
    (tmp_path / "manifest.json").write_bytes(b"{}")
    with (tmp_path / "empty").open("wb") as stream:
        stream.truncate(80 << 20)
    sources = BundleSources(
        name="x",
        content={"manifest.json": tmp_path / "manifest.json"},
        observed={},
        artifacts={"empty": tmp_path / "empty"},
        manifest={},
        lock={},
    )
    write_bundle(tmp_path / "bundle", sources, key)
    pack_bundle(tmp_path / "bundle", tmp_path / "a.tar.gz")
    assert verify_bundle(tmp_path / "a.tar.gz", key_dir=tmp_path / "keys").trusted
    unpack_bundle(tmp_path / "a.tar.gz", tmp_path / "out")
    assert digest_files(tmp_path / "out") == digest_files(tmp_path / "bundle")


def test_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    info = entry("audit-bundle/bomb")
    info.size = 1 << 38
    machine = zlib.compressobj(9, wbits=31)
    with (tmp_path / "bomb.tar.gz").open("wb") as stream:
        stream.write(machine.compress(info.tobuf(tarfile.PAX_FORMAT)))
        for _ in range(160):
            stream.write(machine.compress(bytes(1 << 20)))
        stream.write(machine.flush())
        stream.seek(0)
        stream.write(room.GZIP_HEADER)
    with pytest.raises(NotABundleError, match="far more"):
        unpack_bundle(tmp_path / "bomb.tar.gz", tmp_path / "out")
    report = verify_bundle(tmp_path / "bomb.tar.gz", key_dir=tmp_path)
    assert report.exit_code in (20, 21)


def test_long_pax_header_is_not_read_into_memory(tmp_path: Path) -> None:
    info = entry("audit-bundle/x", tarfile.XHDTYPE)
    info.size = 1 << 30
    data = compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 16))
    (tmp_path / "bad.tar.gz").write_bytes(data)
    with pytest.raises(ArchiveError, match="too long"):
        names_of(tmp_path / "bad.tar.gz")


KINDS = {
    "file": tarfile.REGTYPE,
    "old file": tarfile.AREGTYPE,
    "contiguous": tarfile.CONTTYPE,
    "hard link": tarfile.LNKTYPE,
    "link": tarfile.SYMTYPE,
    "device": tarfile.CHRTYPE,
    "disk": tarfile.BLKTYPE,
    "folder": tarfile.DIRTYPE,
    "pipe": tarfile.FIFOTYPE,
    "pax": tarfile.XHDTYPE,
    "solaris pax": tarfile.SOLARIS_XHDTYPE,
    "global pax": tarfile.XGLTYPE,
    "GNU long name": tarfile.GNUTYPE_LONGNAME,
    "GNU long link": tarfile.GNUTYPE_LONGLINK,
    "GNU sparse": tarfile.GNUTYPE_SPARSE,
    "unknown": b"Z",
}


def header_with_size(kind: bytes, size_bytes: int) -> bytes:
    """A header whose size is written in base 256, the one way to write a negative one."""
    block = bytearray(entry("audit-bundle/x", kind).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = b"\xff" + (256**11 + size_bytes).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert tarfile.TarInfo.frombuf(bytes(block), "utf-8", "strict").size == size_bytes
    return bytes(block)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("size_bytes", [-1, -511, -512, -513, -(1 << 40)])
@pytest.mark.parametrize("behind_pax", [False, True], ids=["alone", "behind-pax"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_negative_size_is_refused_at_once_in_an_entry_of_any_kind(
    tmp_path: Path, kind: bytes, size_bytes: int, behind_pax: bool
) -> None:
    data = header_with_size(kind, size_bytes) + bytes(2048)
    if behind_pax:
        pax = entry("audit-bundle/x", tarfile.XHDTYPE)
        pax.size = 11
        data = pax.tobuf(tarfile.USTAR_FORMAT) + b"11 size=-5\n".ljust(512, b"\0") + data
    path = tmp_path / "bad.tar.gz"
    path.write_bytes(compress(data))
    with pytest.raises(ArchiveError):
        names_of(path)
    report = verify_bundle(path, key_dir=tmp_path)
    assert report.verdict is Verdict.NOT_A_BUNDLE


@pytest.mark.timeout(60)
def test_no_bytes_are_taken_for_a_negative_size() -> None:
    data = zlib.compress(bytes(100), wbits=31)
    with pytest.raises(ArchiveError, match="negative"):
        room._Inflater(io.BytesIO(data), len(data)).take(-1)


def test_folder_that_cannot_be_packed_says_why_and_leaves_nothing(
    bundle: Path, tmp_path: Path
) -> None:
    (bundle / "bad:name").write_bytes(b"")
    with pytest.raises(BundleContentError, match="cannot be packed"):
        pack_bundle(bundle, tmp_path / "a.tar.gz")
    (bundle / "bad:name").unlink()
    (bundle / "link").symlink_to("VERIFY.md")
    with pytest.raises(StorageError):
        pack_bundle(bundle, tmp_path / "a.tar.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
