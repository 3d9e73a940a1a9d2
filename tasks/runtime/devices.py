"""The machine as far as a result depends on it: device, precision, threads, CPU features.

`probe` does not import torch, so that `explain` takes milliseconds.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline_config.sections import Section
from pipeline_config.settings import settings
from tasks.runtime.errors import DeviceError

if TYPE_CHECKING:
    import torch

Device = Literal["cpu", "cuda", "mps"]
DeviceChoice = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16"]
# CPU features with native matrix products in bfloat16; elsewhere they are slower than in float32.
NATIVE_BFLOAT16 = ("amx_bf16", "avx512_bf16")
# The vector sets that change which kernels run, widest first.
VECTOR_SETS = (*NATIVE_BFLOAT16, "avx512f", "avx2", "asimd")
NVIDIA = ("/proc/driver/nvidia/version", "/dev/nvidiactl")


class Machine(Section):
    """What decides the bits of a training on this machine, since it decides the order of sums.

    `precision` is that of matrix products and of the values between layers; weights, losses and
    updates are always float32. `cpu` names the GPU too where `device` is one.
    """

    device: Device
    precision: Precision
    threads: int
    cpu: str


def probe(choice: DeviceChoice) -> Machine:
    """Return the machine for `choice`; `auto` is the first of cuda, mps and cpu that exists.

    Raises DeviceError for a device that does not exist.
    """
    present: dict[Device, bool] = {"cuda": _has_cuda(), "mps": _has_mps(), "cpu": True}
    existing = [device for device, is_there in present.items() if is_there]
    device = existing[0] if choice == "auto" else choice
    if device not in existing:
        found = f"no usable {device} device (driver and a torch built for it)"
        expected = f"one of {', '.join(existing)}"
        raise DeviceError(f"--device {device}", found=found, expected=expected)
    cpu = _cpu()
    is_native = device == "cpu" and cpu.endswith(NATIVE_BFLOAT16)
    if device == "cuda":
        gpu, capability = _gpu()
        # From Ampere on.
        cpu, is_native = f"{cpu}, {gpu}", capability >= (8, 0)
    precision: Precision = "bfloat16" if is_native else "float32"
    return Machine(device=device, precision=precision, threads=settings().threads, cpu=cpu)


@contextmanager
def prepared(machine: Machine) -> Iterator[torch.device]:
    """Set torch up so that the same machine gives the same bits; yields the device to use.

    These settings belong to the process and are restored at the end: the number of threads (also
    NumPy's), the treatment of denormals, and deterministic CUDA algorithms in full float32. The
    CPU's are deterministic for our operations, and their setting imports modules for 3 s.
    """
    import torch
    from threadpoolctl import threadpool_limits

    with ExitStack() as undo:
        undo.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(machine.threads)
        # torch has no getter: where denormals are flushed already, half the smallest number is 0.
        undo.callback(torch.set_flush_denormal, sys.float_info.min / 2 == 0)
        torch.set_flush_denormal(True)
        undo.enter_context(threadpool_limits(machine.threads, user_api="blas"))
        if machine.device == "cuda":
            matmul = torch.backends.cuda.matmul
            undo.callback(setattr, matmul, "allow_tf32", matmul.allow_tf32)
            matmul.allow_tf32 = False
            is_set = torch.are_deterministic_algorithms_enabled()
            warns = torch.is_deterministic_algorithms_warn_only_enabled()
            undo.callback(torch.use_deterministic_algorithms, is_set, warn_only=warns)
            torch.use_deterministic_algorithms(True)
            # Without this variable torch refuses the first matrix product.
            if "CUBLAS_WORKSPACE_CONFIG" not in os.environ:
                os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
                undo.callback(os.environ.pop, "CUBLAS_WORKSPACE_CONFIG")
        yield torch.device(machine.device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on the CPU, in float32, on one thread, so that the order of sums is fixed."""
    with prepared(Machine(device="cpu", precision="float32", threads=1, cpu="")):
        yield


def _has_cuda() -> bool:
    """Return whether there is an NVIDIA driver and a torch built for CUDA, without importing it."""
    generated = Path(str(distribution("torch").locate_file("torch/version.py"))).read_text()
    has_driver = any(Path(path).exists() for path in NVIDIA)
    return has_driver and "cuda: Optional[str] = None" not in generated


def _has_mps() -> bool:
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def _gpu() -> tuple[str, tuple[int, int]]:
    """Return the first GPU's name and compute capability; (0, 0) where the driver gives none."""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        name, capability = done.stdout.splitlines()[0].rsplit(",", 1)
        major, minor = capability.strip().split(".")
        return name.strip(), (int(major), int(minor))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return "an unknown GPU", (0, 0)


def _cpu() -> str:
    """Return the CPU's architecture and its widest vector set, as in `x86_64 avx2`."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.is_file() else set()
    widest = next((each for each in VECTOR_SETS if each in flags), "baseline")
    return f"{platform.machine()} {widest}"
