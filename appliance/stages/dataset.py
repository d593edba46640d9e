"""Stage `dataset`: see that the data is the pinned data, and write down what it is.

Content: ``dataset.json`` with the content fingerprint, the media figure, both per episode, and the
figures a reader wants (frames, episodes, cameras, frame rate, tasks).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from appliance.errors import DatasetError
from appliance.files import write_json
from appliance.manifest.model import Manifest
from appliance.stages.definition import Stage, StageContext

if TYPE_CHECKING:
    from appliance.dataset.fingerprint import Fingerprint
    from appliance.dataset.info import DatasetInfo


def _manifest_part(manifest: Manifest) -> Mapping[str, Any]:
    part = manifest.as_dict()["dataset"]
    return {"dataset": {name: value for name, value in part.items() if name != "root"}}


def _run(context: StageContext) -> None:
    from appliance.dataset.columns import read_info
    from appliance.dataset.media import media_fingerprint

    root = context.dataset_root
    info = read_info(root)
    if not info.is_v3:
        raise DatasetError(
            f"dataset.root: {root} has format {info.codebase_version}, but training reads pictures"
            f" from v3.0 only. Make a converted copy with `appliance dataset convert {root}"
            " NEW_FOLDER` and name that."
        )
    write_facts(context, info, media_fingerprint(root))
    write_json(context.observed / "format.json", {"codebase_version": info.codebase_version})


def write_facts(context: StageContext, info: DatasetInfo, media: Fingerprint | None) -> None:
    """Compare the dataset with what is pinned and write ``dataset.json``; ``media`` may be absent.

    Raises DatasetError when it is not the pinned one.
    """
    from appliance.dataset.columns import read_columns
    from appliance.dataset.fingerprint import fingerprint_columns
    from appliance.stages.pins import check_fingerprint

    columns = read_columns(context.dataset_root)
    fingerprint = fingerprint_columns(columns)
    media_value = None if media is None else media.value
    check_fingerprint(context.manifest, context.dataset_root, fingerprint, media_value)
    write_json(
        context.content / "dataset.json",
        {
            "repo_id": context.manifest.dataset.repo_id,
            "fingerprint": fingerprint.value,
            "media": media_value,
            "num_frames": info.num_frames,
            "num_episodes": info.num_episodes,
            "fps": info.fps,
            "cameras": list(info.cameras),
            "tasks": list(columns.tasks),
            "episodes": [
                {
                    "episode_index": episode,
                    "content": digest,
                    "media": None if media is None else media.episodes[episode],
                }
                for episode, digest in fingerprint.episodes.items()
            ],
        },
    )


STAGE = Stage(
    name="dataset",
    version=1,
    upstream=(),
    rooms=("dataset", "episodes"),
    packages=("numpy", "pyarrow", "av"),
    manifest_part=_manifest_part,
    run=_run,
)
