"""The machine as far as a result depends on it, as files and drivers describe it."""

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
def test_bfloat16_only_where_its_matrix_products_are_native(
    feature: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_cpu", lambda: f"x86_64 {feature}")
    assert probe("cpu").precision == precision


@pytest.mark.parametrize(
    ("capability", "precision"),
    [
        ("8.6", "bfloat16"),
        ("12.0", "bfloat16"),
        ("7.5", "float32"),
        ("N/A", "float32"),
        ("", "float32"),
    ],
)
def test_a_gpus_precision_follows_from_its_compute_capability(
    capability: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text(f"#!/bin/sh\necho 'Some GPU, {capability}'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(devices, "_has_cuda", lambda: True)
    monkeypatch.setattr(devices, "_has_mps", lambda: False)
    machine = probe("auto")
    assert (machine.device, machine.precision) == ("cuda", precision)
    assert ("Some GPU" in machine.cpu) == ("." in capability)


def test_without_nvidia_smi_a_gpu_computes_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devices, "_has_cuda", lambda: True)
    assert probe("cuda").precision == "float32"


def test_a_missing_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_has_mps", lambda: False)
    with pytest.raises(DeviceError, match="--device mps"):
        probe("mps")


def test_the_number_of_threads_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.get_num_threads()
    with prepared(probe("cpu").model_copy(update={"threads": before + 1})):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("flushed", [True, False])
def test_denormals_are_flushed_and_the_setting_is_restored(flushed: bool) -> None:
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
def test_cuda_is_deterministic_inside_and_restored_after(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks the settings with stand-ins, since there may be no GPU."""
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
