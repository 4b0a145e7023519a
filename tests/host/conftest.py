"""A small shop with two trained models, and a bundle of its trees, made once for a session."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from support_build import Built, build_trees, write_shop
from support_fleet import PLACE
from support_postgres import end_postgres, postgres


@pytest.fixture(params=["sqlite", "postgres"])
def either_store(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test on SQLite and on PostgreSQL: `open_store` opens there."""
    if request.param == "sqlite":
        yield
        return
    url = cache(lambda _folder: postgres().database())
    token = PLACE.set(url)
    yield
    PLACE.reset(token)


@pytest.fixture(scope="session", autouse=True)
def _no_postgres_stays() -> Iterator[None]:
    """End the PostgreSQL that tests shared."""
    yield
    end_postgres()


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with reference.parquet, check.parquet, trees.skops and net.skops."""
    return write_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def built(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A signed bundle of the trees; tests copy it before they change it."""
    return build_trees(shop, tmp_path_factory.mktemp("built"))
