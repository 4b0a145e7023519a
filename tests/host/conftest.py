"""A small shop with two trained models, and a bundle of its trees, made once for a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_build import Built, build_trees, write_shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with reference.parquet, check.parquet, trees.skops and net.skops."""
    return write_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def built(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A signed bundle of the trees; tests copy it before they change it."""
    return build_trees(shop, tmp_path_factory.mktemp("built"))
