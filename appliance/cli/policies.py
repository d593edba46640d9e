"""Where the policy of a command comes from: a run folder, a checkpoint, or a server."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli.places import user_cache_dir
from appliance.errors import RuntimeMissingError

if TYPE_CHECKING:
    from appliance.manifest.model import Manifest, RuntimePart

RunOption = Annotated[
    Path | None,
    typer.Option("--run-dir", help="Take the policy a run folder trained.", show_default=False),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="Take a checkpoint in openpi's layout: its folder, or the folder of several.",
        show_default=False,
    ),
]
StepOption = Annotated[
    str | None,
    typer.Option(
        "--step", help="Which of several checkpoints: a number, latest or -1.", show_default=False
    ),
]
NormStatsOption = Annotated[
    Path | None,
    typer.Option(
        "--norm-stats",
        help="The checkpoint's normalization statistics. Default: those it holds.",
        show_default=False,
    ),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        help="PaliGemma's SentencePiece model, for the configurations that read it.",
        show_default=False,
    ),
]
GpusOption = Annotated[
    int | None,
    typer.Option(
        "--gpus", min=0, max=1024, help="GPUs. Default: the manifest's.", show_default=False
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPlace:
    """The options above, as they were given."""

    run_dir: Path | None
    checkpoint: Path | None
    step: str | None
    norm_stats: Path | None
    tokenizer: Path | None

    def check_alone(self, *others: tuple[str, object]) -> None:
        """One source, and nothing that belongs to another. Raises typer.BadParameter."""
        given = [("--run-dir", self.run_dir), ("--checkpoint", self.checkpoint), *others]
        named = [name for name, value in given if value is not None]
        if len(named) != 1:
            wanted = " or ".join(name for name, _ in given)
            raise typer.BadParameter(f"name one source of the policy: {wanted}")
        if self.step is not None and not (self.run_dir or self.checkpoint):
            raise typer.BadParameter(
                f"--step goes with --run-dir or --checkpoint, not with {named[0]}"
            )
        if self.checkpoint is None:
            stray = [("--norm-stats", self.norm_stats), ("--tokenizer", self.tokenizer)]
            for name, value in stray:
                if value is not None:
                    raise typer.BadParameter(f"{name} goes with --checkpoint, not with {named[0]}")


LEARNING = ("jax", "flax", "orbax")
WIRE = ("websockets", "msgpack")


def require_libraries(what: str, *names: str) -> None:
    """Raise RuntimeMissingError unless every library is installed; none is imported."""
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    if absent:
        raise RuntimeMissingError(
            f"{what} needs what is not installed here: {', '.join(absent)}. Install the extra"
            " `run` (`make setup` does)."
        )


def enter_environment(runtime: RuntimePart) -> None:
    """Go on in the environment in which a stage of this runtime computes, its GPUs alone in sight.

    Raises GpuMissingError.
    """
    from appliance.engine.gpus import VISIBLE_DEVICES
    from appliance.engine.host import pinned_environment
    from appliance.engine.pinned import enter_pinned_environment

    pinned = pinned_environment(
        cpu_threads=runtime.cpu_threads,
        cpu_max_isa=runtime.cpu_max_isa,
        gpus=runtime.gpus,
        scratch_dir=user_cache_dir() / "scratch",
    )
    if runtime.gpus:
        pinned[VISIBLE_DEVICES] = ",".join(_hand_out(runtime.gpus))
    enter_pinned_environment(pinned)


def _hand_out(gpus: int) -> list[str]:
    """The UUIDs of the GPUs a stage would be given. Raises GpuMissingError."""
    from appliance.engine.gpus import GpuMissingError, handed_out, read_gpus

    try:
        return [gpu.uuid for gpu in handed_out(read_gpus(), gpus)]
    except GpuMissingError as error:
        error.add_note("This command takes runtime.gpus as --gpus.")
        raise


def runtime_with(
    manifest: Manifest | None, cpu_threads: int | None, gpus: int | None
) -> RuntimePart:
    """The runtime of ``manifest``, or the schema's defaults, with other threads and GPUs."""
    from dataclasses import replace

    from appliance.manifest.model import RuntimePart
    from appliance.manifest.schema import default_values

    runtime = RuntimePart(**default_values(("runtime",))) if manifest is None else manifest.runtime
    if cpu_threads is not None:
        runtime = replace(runtime, cpu_threads=cpu_threads)
    return runtime if gpus is None else replace(runtime, gpus=gpus)
