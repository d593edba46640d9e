"""Record demonstrations: the simulator's expert plays, the dataset room writes.

Not a stage of a run: a dataset is made once, pinned by its fingerprint, and then only read.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from appliance.dataset.record import Recording, record_dataset
from appliance.simulator.process import play_demonstrations
from appliance.simulator.spec import SimulatorSpec
from appliance.simulator.worker import SimulatorProcess
from appliance.stages.definition import Progress
from appliance.stages.environment import package_versions

# What decides the recorded values and pictures.
_PACKAGES = ("rlinf-robotwin-runtime", "sapien", "toppra", "numpy", "lerobot", "av")


def record_demonstrations(
    *,
    task: str,
    task_config: str,
    root: Path,
    repo_id: str,
    episodes: int,
    seed: int,
    image_size: tuple[int, int],
    progress: Progress,
) -> Recording:
    """Play the expert on seeds ``seed``, ``seed + 1``, ... and write the successful ones.

    ``image_size`` is (width, height) in pixels. The same arguments on the same machine give the
    same dataset. Raises DatasetError, SimulatorError, StorageError; nothing is left then.
    """
    spec = SimulatorSpec(task=task, task_config=task_config, image_size=image_size)
    with tempfile.TemporaryDirectory(prefix="recording-") as scratch:
        log_path = Path(scratch) / "simulator.log"
        with SimulatorProcess(spec, log_path=log_path) as simulator:
            return record_dataset(
                play_demonstrations(simulator, seed),
                episodes=episodes,
                root=root,
                repo_id=repo_id,
                source={
                    "specification": spec.as_record(),
                    "first_seed": seed,
                    "packages": package_versions(_PACKAGES),
                },
                on_progress=progress,
            )
