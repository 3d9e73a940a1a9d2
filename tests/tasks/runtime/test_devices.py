"""What of the machine a result depends on: asked of files and drivers, never timed."""

from __future__ import annotations

from pathlib import Path

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
