"""Versions of what is installed, held against `importlib.metadata`."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from wherry_agent.installed import installed_version


@pytest.mark.parametrize("name", ["numpy", "paho-mqtt", "h11", "wherry"])
def test_it_is_what_the_library_says(name: str) -> None:
    assert installed_version(name) == version(name)


@pytest.mark.parametrize(
    "folder",
    ["a_runtime-1.2.3.dist-info", "a_runtime-1.2.3.egg-info", "a_runtime-1.2.3-py3.11.egg-info"],
)
def test_forms_of_metadata(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("a_runtime_more-9.dist-info", "a_runtime-9.libs", "a_runtime", folder):
        (tmp_path / other).mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "none"), str(tmp_path)])
    assert installed_version("a-runtime") == "1.2.3"


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ImportError, match="a-runtime"):
        installed_version("a-runtime")
