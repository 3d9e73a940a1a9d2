"""Settings: the root is an absolute path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline_config.sections import ConfigError
from pipeline_config.settings import CHECKOUT, settings


def test_a_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IDXFLOW_ROOT", "~/digits")
    assert settings().root == tmp_path / "digits"
    assert settings().stages == tmp_path / "digits" / "stages"


def test_a_relative_root_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IDXFLOW_ROOT", "here/artifacts")
    root = settings().root
    assert root == Path(os.getcwd()) / "here" / "artifacts"
    monkeypatch.chdir("/")
    assert root.is_absolute()


def test_the_home_of_an_unknown_user_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDXFLOW_ROOT", "~nobody-is-called-this/digits")
    with pytest.raises(ConfigError, match="unknown user"):
        settings()


def test_without_the_variable_the_root_is_in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IDXFLOW_ROOT")
    assert settings().root == CHECKOUT / "artifacts"
