"""Resolve every name in a manifest once, to a digest: the lock.

After this nothing looks a name up again. The dataset must be the one the manifest pins; if it is
not, the run ends here, before any long work.
"""

from __future__ import annotations

from appliance.dataset.columns import read_columns, read_info
from appliance.dataset.fingerprint import fingerprint_columns
from appliance.digest import sha256_file
from appliance.manifest.lock import Lock
from appliance.manifest.model import Manifest
from appliance.norm_stats.files import find_norm_stats
from appliance.stages.environment import IMAGE, Environment, OwnEnvironment
from appliance.stages.pins import check_fingerprint, dataset_root, media_figure
from appliance.stages.registry import stages_for


def resolve_lock(manifest: Manifest, environment: Environment | None = None) -> Lock:
    """Resolve ``manifest`` for ``environment``; None is this very installation.

    Raises DatasetError when the dataset is not the pinned one.
    """
    environment = environment or OwnEnvironment()
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
            **({} if environment.image is None else {IMAGE: environment.image}),
        },
        sources=environment.source_digests({room for stage in stages for room in stage.rooms}),
    )


def _file_digests(manifest: Manifest) -> dict[str, str]:
    """Digests of the files a manifest names without pinning them."""
    if manifest.norm_stats.path is None:
        return {}
    path = find_norm_stats(manifest.base_dir / manifest.norm_stats.path)
    return {"norm_stats.path": sha256_file(path)}
