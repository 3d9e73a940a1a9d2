"""What of the machine a result depends on: asked of files and drivers, never timed."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.runtime import devices
from tasks.runtime.devices import prepared, probe
from tasks.runtime.errors import DeviceError


@pytest.mark.parametrize(
    ("feature", "precision"),
    [
        ("amx_bf16", "bfloat16"),
        ("avx512_bf16", "bfloat16"),
        ("avx512f", "float32"),
        ("avx2", "float32"),
        ("asimd", "float32"),
    ],
)
def test_bfloat16_only_where_its_products_are_native(
    feature: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_cpu", lambda: f"x86_64 {feature}")
    assert probe("cpu").precision == precision


@pytest.mark.parametrize(
    ("told", "precision"),
    [
        ("8.6", "bfloat16"),
        ("12.0", "bfloat16"),
        ("7.5", "float32"),
        ("N/A", "float32"),
        ("", "float32"),
    ],
)
def test_a_gpu_is_asked_for_its_capability(
    told: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text(f"#!/bin/sh\necho 'Some GPU, {told}'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(devices, "_has_cuda", lambda: True)
    monkeypatch.setattr(devices, "_has_mps", lambda: False)
    machine = probe("auto")
    assert (machine.device, machine.precision) == ("cuda", precision)
    assert ("Some GPU" in machine.cpu) == ("." in told)


def test_without_its_driver_a_gpu_counts_as_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devices, "_has_cuda", lambda: True)
    assert probe("cuda").precision == "float32"


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_has_mps", lambda: False)
    with pytest.raises(DeviceError, match="--device mps"):
        probe("mps")


def test_threads_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.get_num_threads()
    with prepared(probe("cpu").model_copy(update={"threads": before + 1})):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("flushed", [True, False])
def test_denormals_are_flushed_and_put_back(flushed: bool) -> None:
    import torch

    tiny = torch.tensor([1e-323], dtype=torch.float64)
    torch.set_flush_denormal(flushed)
    try:
        with prepared(probe("cpu")):
            assert (tiny / 1).item() == 0
        assert ((tiny / 1).item() == 0) == flushed
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("given", [None, ":16:8"])
def test_cuda_is_deterministic_inside_and_as_it_was_behind(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as a machine without a GPU can tell: what is set, in which order, and put back."""
    import torch

    if given is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    else:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given)
    state = {"deterministic": (False, True), "threads": torch.get_num_threads()}

    def use(mode: bool, *, warn_only: bool = False) -> None:
        state["deterministic"] = (mode, warn_only)

    monkeypatch.setattr(torch, "use_deterministic_algorithms", use)
    monkeypatch.setattr(
        torch, "are_deterministic_algorithms_enabled", lambda: state["deterministic"][0]
    )
    monkeypatch.setattr(
        torch, "is_deterministic_algorithms_warn_only_enabled", lambda: state["deterministic"][1]
    )
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=True))
    machine = probe("cpu").model_copy(update={"device": "cuda"})
    with pytest.raises(ZeroDivisionError), prepared(machine) as device:
        assert device.type == "cuda"
        assert state["deterministic"] == (True, False)
        assert not torch.backends.cuda.matmul.allow_tf32
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (given or ":4096:8")
        raise ZeroDivisionError
    assert state["deterministic"] == (False, True)
    assert torch.backends.cuda.matmul.allow_tf32
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == given
    assert torch.get_num_threads() == state["threads"]
