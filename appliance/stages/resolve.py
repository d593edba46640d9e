"""Resolve every name in a manifest once, to a digest: the lock.

After this nothing looks a name up again. The dataset must be the one the manifest pins; if it is
not, the run ends here, before any long work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from appliance.bundle.keys import secret_places
from appliance.dataset.columns import read_columns, read_info
from appliance.dataset.fingerprint import fingerprint_columns
from appliance.digest import sha256_file
from appliance.errors import ImageError, ManifestError, SimulatorError
from appliance.manifest.lock import Lock
from appliance.manifest.model import Manifest
from appliance.norm_stats.files import find_norm_stats
from appliance.policy.tokenizer import check_tokenizer_digest
from appliance.stages.environment import IMAGE, Environment, OwnEnvironment, describe_gpus
from appliance.stages.inventory import ROBOTWIN_ASSETS, ROBOTWIN_ENVIRONMENT
from appliance.stages.pins import (
    check_fingerprint,
    check_weights_form,
    dataset_root,
    media_figure,
    named_files,
    places_for_stages,
    refuse_secrets,
)
from appliance.stages.registry import stages_for


def resolve_lock(
    manifest: Manifest,
    environment: Environment | None = None,
    secrets: Iterable[Path] | None = None,
) -> Lock:
    """Resolve ``manifest`` for ``environment``; None is this very installation.

    Nothing of ``secrets`` is read, by default the places of the user's own key. Raises
    ManifestError when the manifest names one, DatasetError when the dataset is not the pinned one,
    GpuMissingError when the GPUs asked for cannot be had: a result belongs to their model.
    """
    environment = environment or OwnEnvironment()
    refuse_secrets(manifest, secret_places() if secrets is None else secrets)
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
        files=_file_digests(manifest, environment),
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


def _file_digests(manifest: Manifest, environment: Environment) -> dict[str, str]:
    """Digests of the files a manifest names, by the key that names them.

    A tokenizer is read here; weights are many gigabytes, so that only their presence and form are
    looked at: training reads them against the manifest's digest. Raises NormStatsError,
    CheckpointError.
    """
    digests: dict[str, str] = {}
    for key, path in named_files(manifest).items():
        if key == "eval.checkout.path":
            digests |= _checkout_digests(manifest, path, environment)
        elif key == "norm_stats.path":
            digests[key] = sha256_file(find_norm_stats(path))
        elif key == "train.tokenizer.path" and manifest.train.tokenizer is not None:
            check_tokenizer_digest(path, manifest.train.tokenizer.sha256)
            digests[key] = manifest.train.tokenizer.sha256
        elif manifest.train.init is not None:
            check_weights_form(path, manifest.train.init.sha256)
            digests[key] = manifest.train.init.sha256
    return digests


def _checkout_digests(manifest: Manifest, root: Path, environment: Environment) -> dict[str, str]:
    """What results of RoboTwin with its assets depend on. Raises SimulatorError: it is another.

    A container sees the image's own interpreter alone, so that of this is answered by the image.
    """
    from appliance.simulator import checkout
    from appliance.simulator.checkout_worker import RUNTIME
    from appliance.stages.simulators import robotwin_layout

    part = manifest.eval.checkout
    if part is None:
        return {}
    python = places_for_stages(manifest)["eval.checkout.python"]
    layout, own = robotwin_layout(manifest), _robotwin_of_image(python, environment)
    if own is not None and root == ROBOTWIN_ASSETS:
        assets = own["assets"]
    else:
        checkout.check_layout(root, layout)
        assets = checkout.digest_assets(root)
    if assets is None:
        raise SimulatorError(
            f"eval.checkout.path: the image holds no assets in {root}. Build it with `--build-arg"
            " ASSETS=download`, or name a folder of this machine that holds them."
        )
    if own is not None and layout == RUNTIME:
        code = own["code"]
    else:
        code = checkout.digest_code(root, python, layout)
    if part.tree is not None and part.tree != code:
        raise SimulatorError(
            f"eval.checkout.tree: RoboTwin ({root}) is not the one this manifest was written"
            f" for.\n  pinned: {part.tree}\n  found:  {code}\nRestore it, or, if"
            f" the change is meant, put the found value into {manifest.source_path}."
        )
    installed = checkout.digest_environment(python) if own is None else own["environment"]
    return {
        "eval.checkout.tree": str(code),
        "eval.checkout.assets": assets,
        "eval.checkout.environment": str(installed),
    }


def _robotwin_of_image(python: Path, environment: Environment) -> Mapping[str, str | None] | None:
    """The image's own RoboTwin; None on the host. Raises ManifestError, ImageError."""
    if environment.image is None:
        return None
    if python != ROBOTWIN_ENVIRONMENT / "bin" / "python":
        raise ManifestError(
            f"eval.checkout.python: {python} is not in the image, and a container sees no other"
            f" interpreter. Name {ROBOTWIN_ENVIRONMENT}/bin/python, or use engine host."
        )
    if environment.robotwin is None:
        raise ImageError(
            f"The image {environment.image['name']} holds no RoboTwin environment of its own"
            f" ({ROBOTWIN_ENVIRONMENT}). Build one with `appliance image build --variant cuda`."
        )
    return environment.robotwin
