"""Verifying a bundle with a large checkpoint: its memory, and its speed beside SHA-256 alone.

The large checkpoint is a sparse file, which in the bundle is written out whole; no digest is
quicker for its zeros. The archived one does not compress. Each measurement runs in a fresh process.
Times are processor seconds, so that a busy machine changes little; the yardstick is SHA-256 alone
over the same file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.figure import Figure
from tests.benchmarks.memory import peak_memory_kib

CHECKPOINT_BYTES = 10 << 30
PIECE_BYTES = 16 << 20
YARDSTICK_PIECE_BYTES = 1 << 20
MEMORY_LIMIT_MB = 200
RATIO_LIMIT = 1.15
ARCHIVED_BYTES = 256 << 20
SPARE_BYTES = 2 << 30


def make_checkpoint(path: Path, size_bytes: int, *, dense: bool) -> None:
    """A file with a number at the beginning of each piece; dense pieces do not compress."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rest = hashlib.shake_256(b"checkpoint").digest(PIECE_BYTES - 8) if dense else b""
    with path.open("wb") as stream:
        for place in range(0, size_bytes, PIECE_BYTES):
            stream.seek(place)
            stream.write(place.to_bytes(8, "big") + rest)
        stream.truncate(size_bytes)


def make_large_bundle(base: Path, size_bytes: int, *, dense: bool = False) -> Path:
    """A signed bundle below ``base`` that holds such a checkpoint; its sources are removed."""
    from appliance.bundle.assemble import BundleSources, write_bundle
    from appliance.bundle.keys import load_or_create_key

    checkpoint, manifest = base / "sources" / "params.bin", base / "sources" / "manifest.json"
    make_checkpoint(checkpoint, size_bytes, dense=dense)
    manifest.write_bytes(b"{}\n")
    sources = BundleSources(
        name="large",
        content={"manifest.json": manifest},
        observed={},
        artifacts={"train/checkpoints/6000/params.bin": checkpoint},
        manifest={},
        lock={},
    )
    write_bundle(base / "bundle", sources, load_or_create_key(base / "keys"))
    shutil.rmtree(base / "sources")
    return base / "bundle"


def measure(work: str, base: Path) -> dict[str, float]:
    """Do one kind of work in this process: processor and wall seconds, peak memory in MB."""
    from appliance.bundle.verify import verify_bundle

    target = base / "bundle"
    if work == "sha256":
        target = target / "artifacts" / "train" / "checkpoints" / "6000" / "params.bin"
    wall, processor = time.perf_counter(), time.process_time()
    if work == "sha256":
        hasher = hashlib.sha256()
        with target.open("rb", buffering=0) as stream:
            while piece := stream.read(YARDSTICK_PIECE_BYTES):
                hasher.update(piece)
    else:
        target = base / "bundle.tar.gz" if work == "archive" else target
        report = verify_bundle(target, key_dir=base / "keys")
        assert report.trusted, report.findings
    peak_kb = peak_memory_kib()
    return {
        "processor_s": time.process_time() - processor,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": peak_kb / 1024,
    }


def run_alone(work: str, base: Path) -> dict[str, float]:
    """:func:`measure` in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.verify_speed", work, str(base)],
        capture_output=True,
        text=True,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main(size_bytes: int = CHECKPOINT_BYTES, archived_bytes: int = ARCHIVED_BYTES) -> list[Figure]:
    """The promises: under 200 MB of memory, near SHA-256's speed."""
    from appliance.bundle.archive import pack_bundle

    room = shutil.disk_usage(tempfile.gettempdir()).free
    size_bytes = min(size_bytes, max(PIECE_BYTES, room - SPARE_BYTES))
    label = f"bundle of {size_bytes / 2**30:.3g} GiB"
    with tempfile.TemporaryDirectory(prefix="verify-speed-") as folder:
        base = Path(folder)
        make_large_bundle(base, size_bytes)
        plain, ours = run_alone("sha256", base), run_alone("verify", base)
        small = base / "small"
        made = make_large_bundle(small, archived_bytes, dense=True)
        pack_bundle(made, small / "bundle.tar.gz")
        archived = run_alone("archive", small)
    rate = size_bytes / 2**30 / ours["wall_s"]
    return [
        Figure(
            name=f"verify, {label}: peak memory",
            value=ours["peak_mb"],
            unit="MB",
            limit=MEMORY_LIMIT_MB,
        ),
        Figure(
            name=f"verify, {label}: processor time / SHA-256 alone",
            value=ours["processor_s"] / plain["processor_s"],
            unit="x",
            limit=RATIO_LIMIT,
            note=f"{ours['processor_s']:.1f} s of processor, {rate:.2f} GiB/s by the clock",
        ),
        Figure(
            name=f"verify, archive of {archived_bytes / 2**20:.0f} MiB: peak memory",
            value=archived["peak_mb"],
            unit="MB",
            limit=MEMORY_LIMIT_MB,
            note=f"{archived['processor_s']:.1f} s of processor",
        ),
    ]


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
