"""Environment, hashes and how to verify: what a reviewer needs to look further."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from appliance.bundle.layout import ATTESTATION_FILE
from appliance.report.blocks import (
    Block,
    Cell,
    Code,
    Facts,
    Fold,
    Note,
    Section,
    Tone,
    code_cell,
    make_table,
    text_cell,
)
from appliance.report.evidence import Evidence, as_count, as_list, as_mapping, as_text
from appliance.report.report_input import REPORT_FILE, ReportInput
from appliance.report.run_section import STAGES
from appliance.report.wording import show_count, show_size

LOCK = "observed/lock.json"
OBSERVED_METRICS = "observed/evaluate/_metrics.json"
MOST_FILES = 2_000


def make_record_sections(evidence: Evidence, view: ReportInput) -> list[Section]:
    """The sections "Environment", "Hashes" and "How to verify"."""
    return [
        _make_environment(evidence),
        _make_hashes(evidence, view),
        _make_instructions(view),
    ]


def make_unread_section(evidence: Evidence) -> Section | None:
    """What could not be read, as far as was tried; None when all could."""
    if not evidence.problems:
        return None
    table = make_table(
        "unread",
        "Files whose content could not be read",
        ("file", "why"),
        [
            (Cell(text=name, code=True), Cell(text=why, tone=Tone.BAD))
            for name, why in sorted(evidence.problems.items())
        ],
    )
    return Section(name="unread", title="What could not be read", blocks=(table,))


def _make_environment(evidence: Evidence) -> Section:
    lock = evidence.read_mapping(LOCK)
    platform = as_mapping(lock.get("platform"))
    blocks: list[Block] = []
    facts = list(_list_platform(evidence, platform))
    if facts:
        blocks.append(Facts(rows=tuple(facts)))
    packages = as_mapping(lock.get("packages"))
    if packages:
        table = make_table(
            "packages",
            "Python packages that decide results",
            ("package", "version"),
            [(name, _plain(version)) for name, version in sorted(packages.items())],
        )
        blocks.append(Fold(summary=f"{len(packages)} packages", blocks=(table,)))
    sources = as_mapping(lock.get("sources"))
    if sources:
        table = make_table(
            "sources",
            "The appliance's own source, by room",
            ("room", "tree digest"),
            [(name, code_cell(as_text(value))) for name, value in sorted(sources.items())],
        )
        blocks.append(Fold(summary=f"Source digests of {len(sources)} rooms", blocks=(table,)))
    if not blocks:
        blocks.append(Note(text="No lock and no receipt: the environment is not recorded."))
    return Section(name="environment", title="Environment", blocks=tuple(blocks))


def _plain(value: object) -> str:
    return "not installed" if value is None else str(value)


def _list_platform(evidence: Evidence, platform: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    if platform:
        yield "appliance", text_cell(as_text(platform.get("appliance")))
        yield (
            "system",
            Cell(
                text=f"{_plain(platform.get('system'))} {_plain(platform.get('machine'))},"
                f" {_plain(platform.get('libc'))}, Python {_plain(platform.get('python'))}"
            ),
        )
        features = ", ".join(str(each) for each in as_list(platform.get("cpu_features")))
        yield "processor", Cell(text=f"{_plain(platform.get('cpu_model'))} ({features})")
        if gpus := as_list(platform.get("gpus")):
            yield "GPU", Cell(text=", ".join(map(str, gpus)))
    hosts: dict[str, list[str]] = {}
    for stage in STAGES:
        host = as_mapping(evidence.read_mapping(f"observed/receipts/{stage}.json").get("host"))
        if host:
            text = (
                f"{_plain(host.get('os'))}, kernel {_plain(host.get('kernel'))},"
                f" {_plain(host.get('cpu_count'))} processors,"
                f" {show_size(as_count(host.get('memory_bytes')))} memory"
                + (f", GPU driver {host['gpu_driver']}" if host.get("gpu_driver") else "")
            )
            hosts.setdefault(text, []).append(stage)
    for text, stages in hosts.items():
        where = "host" if len(hosts) == 1 else f"host of {', '.join(stages)}"
        yield where, Cell(text=text)
    versions = as_mapping(evidence.read_mapping(OBSERVED_METRICS).get("simulator_versions"))
    if versions:
        for label in ("runtime", "sapien", "toppra", "renderer"):
            if as_text(versions.get(label)):
                yield f"simulator: {label}", text_cell(as_text(versions.get(label)))


def _make_hashes(evidence: Evidence, view: ReportInput) -> Section:
    lock = evidence.read_mapping(LOCK)
    dataset = as_mapping(lock.get("dataset"))
    run = evidence.read_mapping("content/train/run_summary.json")
    metrics = evidence.read_mapping("content/evaluate/metrics.json")
    norm = evidence.read_mapping("content/norm_stats/norm_stats_provenance.json")
    plan = evidence.read_mapping("content/plan/plan_meta.json")
    check = view.check
    figures = [
        ("content digest (identity of the result)", view.content_digest),
        ("signing key", check.key_id if check is not None else None),
        ("manifest", as_text(lock.get("manifest_sha256"))),
        ("dataset fingerprint", as_text(dataset.get("fingerprint"))),
        ("dataset pictures", as_text(dataset.get("media"))),
        ("plan", as_text(plan.get("plan_sha256"))),
        ("normalization statistics", as_text(norm.get("norm_stats_sha256"))),
        ("order of the training data", as_text(run.get("index_stream_sha256"))),
        ("hash chain of training, last link", as_text(run.get("hash_chain"))),
        ("evaluated parameters", as_text(as_mapping(metrics.get("policy")).get("params"))),
    ]
    rows = tuple((label, code_cell(value)) for label, value in figures if value)
    blocks: list[Block] = []
    if rows:
        blocks.append(Facts(rows=rows))
    blocks += _list_checkpoints(evidence)
    blocks += _list_contents(evidence, view)
    if not blocks:
        blocks.append(Note(text="No digests are recorded."))
    return Section(name="hashes", title="Hashes", blocks=tuple(blocks))


def _list_checkpoints(evidence: Evidence) -> Iterator[Block]:
    """The digests of the last checkpoint's parameters."""
    leaves = evidence.read_mapping("content/train/checkpoint_leaves.json")
    steps = sorted(int(step) for step in leaves if step.isdecimal() and len(step) < 10)
    if not steps:
        return
    last = as_mapping(leaves.get(str(steps[-1])))
    table = make_table(
        "parameters",
        f"Parameters of checkpoint {steps[-1]}",
        ("parameter", "SHA-256"),
        [
            (Cell(text=name, code=True), code_cell(as_text(value)))
            for name, value in sorted(last.items())[:MOST_FILES]
        ],
    )
    summary = f"Digests of the {len(last)} parameters of checkpoint {steps[-1]}"
    yield Fold(summary=summary, blocks=(table,))


def _list_contents(evidence: Evidence, view: ReportInput) -> Iterator[Block]:
    """The files the page was made from, with sizes; the signed statement has their digests."""
    rows: list[tuple[Cell | str, ...]] = []
    total = 0
    for name, path in evidence.files.items():
        if name in (view.place, f"observed/{REPORT_FILE}"):
            continue
        try:
            size = path.stat().st_size
        except OSError:
            continue
        total += size
        rows.append((Cell(text=name, code=True), show_size(size)))
    if not rows:
        return
    table = make_table(
        "files",
        f"Files, in all {show_size(total)}"
        + (f" (the first {MOST_FILES} shown)" if len(rows) > MOST_FILES else ""),
        ("file", "#size"),
        rows[:MOST_FILES],
    )
    note = Note(
        text=f"The SHA-256 of every file stands in the signed statement, {ATTESTATION_FILE}."
    )
    yield Fold(summary=f"{show_count(len(rows))} files, {show_size(total)}", blocks=(note, table))


def _make_instructions(view: ReportInput) -> Section:
    blocks: list[Block] = []
    if view.stages:
        blocks.append(
            Note(
                text="This is a run folder, not a bundle: nothing is signed. `appliance run` goes"
                " on where it stopped and ends with a bundle that can be verified."
            )
        )
        return Section(name="verify", title="How to verify", blocks=tuple(blocks))
    blocks += [
        Note(
            text="A page can say anything. What counts is the bundle: its signed statement lists"
            " the SHA-256 of every file. In the bundle's folder, with the public key from the"
            " signer (not from the bundle):"
        ),
        Code(
            caption="With this program",
            text="pip install .   # in the source of this program; the core is enough\n"
            "appliance verify . --key THE_SIGNERS_PUBLIC_KEY.pem",
        ),
        make_table(
            "exits",
            "What `verify` answers",
            ("exit code", "verdict", "meaning"),
            [
                (
                    "0",
                    Cell(text="intact, signer trusted", tone=Tone.GOOD),
                    "every file is what was signed, by a key you trust",
                ),
                (
                    "22",
                    Cell(text="intact, of unknown origin", tone=Tone.OPEN),
                    "every file is what was signed, by a key you do not trust",
                ),
                (
                    "21",
                    Cell(text="not intact", tone=Tone.BAD),
                    "something was changed, added, removed or renamed",
                ),
                (
                    "20",
                    Cell(text="not a bundle", tone=Tone.BAD),
                    "nothing here that can be checked",
                ),
            ],
        ),
        Note(
            text="Without this program: VERIFY.md in the bundle gives the commands for python3 and"
            " openssl alone, and for other people's tools. The key lay on the machine of the run"
            " (SLSA Build L1): an intact bundle shows that nothing changed since signing, not that"
            " the run was done honestly."
            " Computing it again shows that:"
        ),
        Code(
            caption="Compute it again and compare",
            text="appliance replay . --dataset-root YOUR_COPY_OF_THE_DATASET",
        ),
    ]
    return Section(name="verify", title="How to verify", blocks=tuple(blocks))
