"""A small bundle with every kind of file that a run puts into one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.bundle.assemble import BundleIdentity, BundleSources, write_bundle
from appliance.bundle.keys import SigningKey, load_or_create_key
from appliance.bundle.layout import content_digest
from appliance.bundle.preregistration import PREREGISTRATION_FILE, sign_preregistration
from appliance.bundle.sbom import Component, describe_components, python_purl
from appliance.bundle.statement import Dependency, RunMetadata
from appliance.bundle.step import Step
from appliance.digest import sha256_bytes, sha256_json

FINGERPRINT = "sha256-content-v1:" + "ab" * 32
PLAN_SHA256 = "cd" * 32

MANIFEST: dict[str, Any] = {
    "version": 1,
    "name": "touch_block-demo50",
    "dataset": {"repo_id": "touch_block-demo50", "fingerprint": FINGERPRINT},
    "plan": {"stride": 2, "clip_ratio": 5.0},
    "eval": {
        "task": "touch_block",
        "embodiment": "stand_in",
        "planner": "ik_toppra",
        "shader": "minimal",
        "episodes": 4,
    },
    "expect": {"success_rate": {"value": 0.75, "margin": 0.2, "alpha": 0.05}},
}
REGISTRATION = f"train/{PREREGISTRATION_FILE}"
RECEIPT = "receipts/train.json"
TRAINING_STARTED = "2026-01-01T02:00:00+00:00"
UPSTREAM = {
    "plan": (),
    "norm_stats": ("plan",),
    "train": ("plan", "norm_stats"),
    "evaluate": ("norm_stats", "train"),
}
LOCK: dict[str, Any] = {
    "manifest_sha256": sha256_json(MANIFEST),
    "dataset": {"repo_id": "touch_block-demo50", "fingerprint": FINGERPRINT, "media": None},
    "packages": {"numpy": "2.2.6", "torch": None},
    "sources": {"plan": "sha256-tree-v1:" + "34" * 32},
}
EPISODES = [
    {"episode": 0, "outcome": "success", "steps": 20},
    {"episode": 1, "outcome": "timeout", "steps": 90},
    {"episode": 2, "outcome": "success", "steps": 25},
    {"episode": 3, "outcome": "success", "steps": 31},
]
METRICS = {
    "episodes": 4,
    "successes": 3,
    "success_rate": 0.75,
    "wilson_interval": {"low": 0.3, "high": 0.95},
    "simulator": {"embodiment": "stand_in", "planner": "ik_toppra", "shader": "minimal"},
}


def content_files(manifest: Mapping[str, Any] = MANIFEST) -> dict[str, bytes]:
    dataset = {"fingerprint": FINGERPRINT}
    return {
        "lock.json": _json({**LOCK, "manifest_sha256": sha256_json(manifest)}),
        "manifest.json": _json({**manifest, "dataset": dataset}),
        "plan/plan_meta.json": _json(
            {"plan_sha256": PLAN_SHA256, "dataset_fingerprint": FINGERPRINT}
        ),
        "plan/plan_arrays.npz": bytes(range(256)) * 8,
        "norm_stats/norm_stats.json": _json({"norm_stats": {}}),
        "train/run_summary.json": _json({"plan_sha256": PLAN_SHA256, "exposure_n": 100}),
        "train/hash_chain.jsonl": b'{"step":0}\n{"step":1}\n',
        "evaluate/metrics.json": _json(METRICS),
        "evaluate/episodes.jsonl": b"".join(_json(row) for row in EPISODES),
    }


def observed_files(note: str = "first") -> dict[str, bytes]:
    return {
        "train/environment.cdx.json": _json(
            describe_components(
                [
                    Component(name="numpy", version="2.2.6", purl=python_purl("numpy", "2.2.6")),
                    Component(
                        name="sapien",
                        version="3.0.3",
                        purl=python_purl("sapien", "3.0.3"),
                        sha256s={"sapien/wrapper/urdf_loader.py": "ef" * 32},
                    ),
                ],
                subject_name="plan-star-appliance",
                subject_version="1",
                serial=None,
            )
        ),
        "train/log.txt": f"{note}: 4 minutes\n".encode(),
        "evaluate/_metrics.json": _json({"episodes": 4, "successes": 3, "eval_time_sec": 12.5}),
        "evaluate/_result.txt": b"0.75",
        "evaluate/videos/episode0.mp4": b"\x00\x00\x00\x18ftyp" + bytes(5000),
        "evaluate/videos/episode1.mp4": b"\x00\x00\x00\x18ftyp" + bytes(range(256)) * 20,
        "empty.log": b"",
    }


def make_sources(folder: Path, files: Mapping[str, bytes]) -> dict[str, Path]:
    sources: dict[str, Path] = {}
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        sources[name] = path
    return sources


def make_steps(content: Mapping[str, bytes], registration: bytes) -> list[Step]:
    """Steps as a run has them, with a checkpoint that stays outside the bundle."""
    shared = {"manifest.json": sha256_bytes(content["manifest.json"])}
    shared["lock.json"] = sha256_bytes(content["lock.json"])
    steps = []
    for number, (name, upstream) in enumerate(UPSTREAM.items()):
        products = {
            f"{name}/content/{path.removeprefix(name + '/')}": sha256_bytes(data)
            for path, data in content.items()
            if path.startswith(name + "/")
        }
        inputs = dict(shared)
        if name == "train":
            products["train/artifacts/checkpoints/20/params.bin"] = sha256_bytes(b"parameters")
            place = f"train/observed/{PREREGISTRATION_FILE}"
            inputs[place] = products[place] = sha256_bytes(registration)
        steps.append(
            Step(
                name=name,
                upstream=upstream,
                products=products,
                inputs=inputs,
                command=("appliance", "stage", name),
                started_on=f"2026-01-01T0{number}:00:00Z",
                finished_on=f"2026-01-01T0{number}:30:00Z",
            )
        )
    return steps


def stage_digest(content: Mapping[str, bytes], stage: str) -> str:
    """The content digest a stage's receipt gives."""
    prefix = stage + "/"
    return content_digest(
        {
            f"content/{name.removeprefix(prefix)}": sha256_bytes(data)
            for name, data in content.items()
            if name.startswith(prefix)
        }
    )


def make_receipt(registration: bytes) -> bytes:
    """The training's receipt, as far as a bundle's check reads it."""
    outputs = {f"observed/{PREREGISTRATION_FILE}": sha256_bytes(registration)}
    return _json(
        {
            "version": 1,
            "stage": "train",
            "outputs": outputs,
            "times": {"started_utc": TRAINING_STARTED, "seconds": 1800.0},
        }
    )


def make_bundle(
    base: Path,
    *,
    key: SigningKey | None = None,
    content: Mapping[str, bytes] | None = None,
    observed: Mapping[str, bytes] | None = None,
    manifest: Mapping[str, Any] | None = None,
    metadata: RunMetadata | None = None,
    declared: Mapping[str, Any] | None = None,
    registered_on: str | None = None,
    name: str = "bundle",
) -> BundleIdentity:
    """A bundle at ``base/name``, signed with the key in ``base/keys`` unless another is given.

    ``declared`` is the manifest as it was registered before training, if it was another.
    """
    source = base / f"{name}-sources"
    signer = load_or_create_key(base / "keys") if key is None else key
    whole = content_files() if content is None else content
    registration = sign_preregistration(
        manifest=MANIFEST if declared is None else declared,
        lock=LOCK,
        upstream={"plan": stage_digest(whole, "plan")},
        registered_on=registered_on or "2026-01-01T01:59:00Z",
        key=signer,
    )
    seen = dict(observed_files() if observed is None else observed)
    if observed is None or declared is not None or registered_on is not None:
        seen |= {REGISTRATION: registration, RECEIPT: make_receipt(registration)}
    is_whole = set(content_files()) <= set(whole)
    return write_bundle(
        base / name,
        BundleSources(
            name="touch_block-demo50",
            content=make_sources(source / "c", whole),
            observed=make_sources(source / "o", seen),
            manifest=MANIFEST if manifest is None else manifest,
            lock=LOCK,
            steps=make_steps(whole, registration) if is_whole else (),
            dependencies=[
                Dependency(name="pre-registration", digest=f"sha256:{sha256_bytes(registration)}")
            ],
            levels=("R0", "R1"),
            metadata=metadata or RunMetadata(),
        ),
        signer,
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode() + b"\n"
