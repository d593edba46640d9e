"""Resolve every name in a manifest once, to a digest: the lock.

After this nothing looks a name up again. The dataset must be the one the manifest pins; if it is
not, the run ends here, before any long work.
"""

from __future__ import annotations

from appliance.dataset.columns import read_columns, read_info
from appliance.dataset.fingerprint import fingerprint_columns
from appliance.digest import sha256_file
from appliance.errors import SimulatorError
from appliance.manifest.lock import Lock
from appliance.manifest.model import Manifest
from appliance.norm_stats.files import find_norm_stats
from appliance.policy.tokenizer import check_tokenizer_digest
from appliance.stages.environment import IMAGE, Environment, OwnEnvironment, describe_gpus
from appliance.stages.pins import (
    check_fingerprint,
    check_weights_form,
    dataset_root,
    media_figure,
    named_files,
)
from appliance.stages.registry import stages_for


def resolve_lock(manifest: Manifest, environment: Environment | None = None) -> Lock:
    """Resolve ``manifest`` for ``environment``; None is this very installation.

    Raises DatasetError when the dataset is not the pinned one, GpuMissingError when the GPUs asked
    for cannot be had: a result belongs to their model.
    """
    environment = environment or OwnEnvironment()
    gpus = describe_gpus(manifest.runtime.gpus)
    root = dataset_root(manifest)
    info = read_info(root)
    columns = read_columns(root)
    fingerprint = fingerprint_columns(columns)
    media = media_figure(root)
    check_fingerprint(manifest, root, fingerprint, media)
    stages = stages_for(manifest)
    return Lock(
        manifest_sha256=manifest.sha256,
        dataset={
            "repo_id": manifest.dataset.repo_id,
            "fingerprint": fingerprint.value,
            "media": media,
            "num_frames": info.num_frames,
            "num_episodes": info.num_episodes,
            "fps": info.fps,
            "codebase_version": info.codebase_version,
            "cameras": list(info.cameras),
        },
        files=_file_digests(manifest),
        packages={
            name: version
            for name, version in environment.package_versions(
                {name for stage in stages for name in stage.packages}
            ).items()
            if version is not None
        },
        platform={
            **environment.platform,
            **gpus,
            **({} if environment.image is None else {IMAGE: environment.image}),
        },
        sources=environment.source_digests({room for stage in stages for room in stage.rooms}),
    )


def _file_digests(manifest: Manifest) -> dict[str, str]:
    """Digests of the files a manifest names, by the key that names them.

    A tokenizer is read here; weights are many gigabytes, so that only their presence and form are
    looked at: training reads them against the manifest's digest. Raises NormStatsError,
    CheckpointError.
    """
    digests: dict[str, str] = {}
    for key, path in named_files(manifest).items():
        if key == "eval.checkout.path":
            digests |= _checkout_digests(manifest)
        elif key == "norm_stats.path":
            digests[key] = sha256_file(find_norm_stats(path))
        elif key == "train.tokenizer.path" and manifest.train.tokenizer is not None:
            check_tokenizer_digest(path, manifest.train.tokenizer.sha256)
            digests[key] = manifest.train.tokenizer.sha256
        elif manifest.train.init is not None:
            check_weights_form(path, manifest.train.init.sha256)
            digests[key] = manifest.train.init.sha256
    return digests


def _checkout_digests(manifest: Manifest) -> dict[str, str]:
    """What a RoboTwin checkout's results depend on. Raises SimulatorError when it is another."""
    from appliance.simulator.checkout import digest_checkout, digest_environment

    part = manifest.eval.checkout
    if part is None:
        return {}
    root = manifest.base_dir / part.path
    found = digest_checkout(root)
    if part.tree is not None and part.tree != found.code:
        raise SimulatorError(
            f"eval.checkout.tree: the checkout in {root} is not the one this manifest was written"
            f" for.\n  pinned: {part.tree}\n  found:  {found.code}\nRestore the checkout, or, if"
            f" the change is meant, put the found value into {manifest.source_path}."
        )
    return {
        "eval.checkout.tree": found.code,
        "eval.checkout.assets": found.assets,
        "eval.checkout.environment": digest_environment(manifest.base_dir / part.python),
    }
