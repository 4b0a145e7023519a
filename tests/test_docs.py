"""The pages hold what the code has: links lead somewhere, dependencies have reasons."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from support import ROOT

PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {".venv", ".cache", "node_modules", "demo-run"} & set(path.relative_to(ROOT).parts)
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def _names() -> set[str]:
    extras = PROJECT["optional-dependencies"].values()
    every = [*PROJECT["dependencies"], *(item for extra in extras for item in extra)]
    return {re.split(r"[\[<>=!~; ]", item)[0] for item in every} - {"wherry"}


@pytest.mark.parametrize("name", sorted(_names()))
def test_every_dependency_has_its_reason(name: str) -> None:
    assert re.search(rf"\b{re.escape(name)}\b", (ROOT / "docs" / "dependencies.md").read_text())


def test_readme_names_every_exit_code() -> None:
    text = (ROOT / "README.md").read_text()
    for code in (0, 1, 2, 3, 130):
        assert f"| {code} |" in text


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize(
    "page", [path for path in PAGES if "adr" not in path.parts], ids=lambda path: path.name
)
def test_no_path_of_one_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|root|home/\w+)/", page.read_text())
