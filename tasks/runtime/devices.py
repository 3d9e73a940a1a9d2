"""The machine as far as a result depends on it: device, precision, threads, CPU features.

Nothing here imports torch until a device is really used: `explain` must answer in milliseconds.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline_config.sections import Section
from pipeline_config.settings import settings
from tasks.runtime.errors import DeviceError

if TYPE_CHECKING:
    import torch

DeviceChoice = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16"]
# CPU features whose matrix products in bfloat16 are native; elsewhere they are slower than float32.
NATIVE_BFLOAT16 = ("amx_bf16", "avx512_bf16")


class Machine(Section):
    """What of the machine decides the bits of a training: sums in another order are other sums.

    `precision` is that of matrix products and of what flows between the layers; weights, losses and
    updates are float32 in any case. `cpu` names the GPU too where it is one that computes.
    """

    device: Literal["cpu", "cuda", "mps"]
    precision: Precision
    threads: int
    cpu: str


def probe(choice: DeviceChoice) -> Machine:
    """The machine that `choice` means here; `auto` is the first of cuda, mps and cpu that exists.

    Raises DeviceError when the chosen device is not there. Asks the driver, never torch.
    """
    present = {"cpu": True, "cuda": _has_cuda(), "mps": _has_mps()}
    device = choice
    if device == "auto":
        device = next(kind for kind in ("cuda", "mps", "cpu") if present[kind])
    if not present[device]:
        raise DeviceError(
            f"--device {device}",
            found=f"no usable {device} device (driver and a torch built for it)",
            expected=f"one of {', '.join(kind for kind, there in present.items() if there)}",
            remedy="Choose --device auto to take what is there.",
        )
    cpu, capability = _cpu(), (0, 0)
    if device == "cuda":
        gpu, capability = _gpu()
        cpu = f"{cpu}, {gpu}"
    return Machine(
        device=device,
        precision=_precision(device, cpu, capability),
        threads=settings().threads,
        cpu=cpu,
    )


@contextmanager
def prepared(machine: Machine) -> Iterator[torch.device]:
    """Set torch up so that the same machine gives the same bits; yields the device to use.

    Threads (torch's, and NumPy's in its matrix products), the treatment of denormals and what is
    set for CUDA are this process's own, so they are put back at the end.
    """
    import torch
    from threadpoolctl import threadpool_limits

    with ExitStack() as undo:
        undo.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(machine.threads)
        # Whether they are flushed already shows in a sum: torch cannot be asked.
        undo.callback(torch.set_flush_denormal, sys.float_info.min / 2 == 0)
        torch.set_flush_denormal(True)
        if machine.device == "cuda":
            _make_deterministic(undo)
        undo.enter_context(threadpool_limits(machine.threads, user_api="blas"))
        yield torch.device(machine.device)


def _make_deterministic(undo: ExitStack) -> None:
    """Have CUDA give the same bits; the CPU does for our operations, and this import costs 3 s.

    Without its variable, cuBLAS's sums vary, and torch refuses the first matrix product.
    """
    import torch

    matmul, variable = torch.backends.cuda.matmul, "CUBLAS_WORKSPACE_CONFIG"
    undo.callback(setattr, matmul, "allow_tf32", matmul.allow_tf32)
    matmul.allow_tf32 = False
    is_set = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    undo.callback(torch.use_deterministic_algorithms, is_set, warn_only=warns)
    torch.use_deterministic_algorithms(True)
    if variable not in os.environ:
        undo.callback(os.environ.pop, variable, None)
        os.environ[variable] = ":4096:8"


@contextmanager
def one_thread() -> Iterator[None]:
    """Score on the CPU, in float32, on one thread, so that sums are added in one order."""
    with prepared(probe("cpu").model_copy(update={"threads": 1})):
        yield


def _torch_build() -> str:
    """The text of torch's generated version module, read without importing torch."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    path = Path(spec.origin).parent / "version.py"
    return path.read_text() if path.is_file() else ""


def _has_cuda() -> bool:
    driver = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()
    return driver and "cuda: Optional[str] = None" not in _torch_build()


def _has_mps() -> bool:
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def _precision(device: str, cpu: str, capability: tuple[int, int]) -> Precision:
    """bfloat16 where matrix products in it are native: by features, never by timing.

    On CUDA from compute capability 8.0 (Ampere); never on MPS.
    """
    native = device == "cpu" and cpu.endswith(NATIVE_BFLOAT16)
    if device == "cuda":
        native = capability >= (8, 0)
    return "bfloat16" if native else "float32"


def _gpu() -> tuple[str, tuple[int, int]]:
    """Name and compute capability of the first GPU, asked of its driver; (0, 0) if it is silent."""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        name, capability = told.stdout.splitlines()[0].rsplit(",", 1)
        major, minor = capability.strip().split(".")
        return name.strip(), (int(major), int(minor))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return "an unknown GPU", (0, 0)


def _cpu() -> str:
    """The widest vector set of this CPU that changes which kernels run, beside its architecture."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.is_file() else set()
    wanted = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd")
    widest = next((flag for flag in wanted if flag in flags), "baseline")
    return f"{platform.machine()} {widest}"
