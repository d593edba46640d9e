"""The host engine: a stage is a subprocess of this Python, with the environment pinned.

What decides float bits on a CPU is set here, before any library is imported: the thread counts and
the newest instruction set XLA may use (measured: the same jaxlib gives the same bits over processes
only when both are the same). The environment is built from the runtime part of the manifest alone;
variables of the caller that would change a result are removed.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from appliance.engine.gpus import VISIBLE_DEVICES
from appliance.errors import StageFailedError

logger = logging.getLogger(__name__)

# What stops a stage: Ctrl-C, being told to end, and the end of the time it was given.
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
ENGINE_PID = "APPLIANCE_ENGINE_PID"
# Variables of the caller that could change what a stage computes.
_REMOVED_PREFIXES = ("XLA_", "JAX_", "TF_", "OMP_", "MKL_", "OPENBLAS_", "NPY_", "HF_", "TORCH_")
# What XLA is told so that one program gives the same bits in every process on the same GPU.
# deterministic_ops takes scatters, convolutions and matrix products that add up in one order, and
# fails to compile what has no such form. Autotuning takes the kernel that was fastest in a
# measurement, which may be another one, with other bits, in the next process: level 0 measures
# nothing (deterministic_ops implies that in the XLA of today, openxla/xla#16635; said here all the
# same). Both have a price in speed. No GPU was at hand: neither has been seen to work.
DETERMINISTIC_GPU_FLAGS = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")
_PR_SET_PDEATHSIG = 1
_REMOVED = ("PJRT_NPROC", "PYTHONHASHSEED", "PYTHONPATH", "PYTHONSTARTUP", "ATEN_CPU_CAPABILITY")


def pinned_environment(
    *, cpu_threads: int, cpu_max_isa: str, gpus: int, scratch_dir: Path
) -> dict[str, str]:
    """The variables every stage runs with, apart from what it inherits unchanged.

    ``scratch_dir`` receives caches that never change a result (compiled programs, Arrow copies).
    """
    threads = str(cpu_threads)
    flags = [f"--xla_cpu_max_isa={cpu_max_isa}"]
    if gpus:
        flags.extend(DETERMINISTIC_GPU_FLAGS)
    return {
        "XLA_FLAGS": " ".join(flags),
        "PJRT_NPROC": threads,
        "JAX_PLATFORMS": "cuda" if gpus else "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(scratch_dir / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_THREEFRY_PARTITIONABLE": "true",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(scratch_dir / "datasets"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # On GPUs the caller's choice is inherited; set but empty would be the choice of none.
        **({} if gpus else {VISIBLE_DEVICES: ""}),
    }


def stage_environment(pinned: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without what could change a result, plus ``pinned``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _REMOVED and not name.startswith(_REMOVED_PREFIXES)
    }
    return {**kept, **pinned}


def run_stage_process(
    stage: str, run_dir: Path, pinned: Mapping[str, str], *, keep_open: tuple[int, ...] = ()
) -> int:
    """Run ``appliance stage STAGE --run-dir RUN_DIR`` to its end and return its exit code.

    The child shares the terminal, so its progress and its error text reach the user directly. On
    Ctrl-C the terminal signals both processes; this one waits for the child to stop first. The
    child is killed when this process dies. ``keep_open`` are descriptors the child inherits.

    Raises StageFailedError when the child was killed, KeyboardInterrupt when it was interrupted.
    """
    verbose = ["--verbose"] if logging.getLogger().isEnabledFor(logging.INFO) else []
    command = [sys.executable, "-m", "appliance", *verbose, "stage", stage]
    # Held back until the child can take them (it lets them in itself) and this one waits for it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        child = subprocess.Popen(
            [*command, "--run-dir", str(run_dir)],
            env={**stage_environment(pinned), ENGINE_PID: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            pass_fds=keep_open,
        )
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise
    code = _wait(child, mask)
    if code in (-signal.SIGINT, 130):
        raise KeyboardInterrupt
    if code < 0:
        raise StageFailedError(_killed_text(stage, run_dir, -code))
    return code


def bind_to_engine() -> None:
    """Let this stage process die with the engine that started it, if one did.

    Linux kills it then (prctl(2), PR_SET_PDEATHSIG). A stage started by hand is left alone.
    """
    engine = os.environ.get(ENGINE_PID)
    if engine is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(engine):
        os.kill(os.getpid(), signal.SIGKILL)  # it died before the request was made


def _wait(child: subprocess.Popen[bytes], mask: set[int | signal.Signals]) -> int:
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return child.wait()
    except BaseException:
        _stop(child)
        raise


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Wait for the child to stop; the terminal's Ctrl-C has reached it too, other signals not."""
    for timeout_s, signal_number in ((2, signal.SIGINT), (20, signal.SIGKILL)):
        try:
            child.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            child.send_signal(signal_number)
        else:
            return
    child.wait()


def _killed_text(stage: str, run_dir: Path, number: int) -> str:
    name = signal.Signals(number).name
    cause = (
        " The system does this when memory runs out; close other programs or lower"
        " train.batch_size."
        if number == signal.SIGKILL
        else ""
    )
    return (
        f"The stage {stage} was ended by {name}.{cause} What was finished is kept in {run_dir}: run"
        " the same command again to continue."
    )
