"""What servers and commands that are killed work in: a quick folder, and who starts them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support_shim import quick_folder
from support_victim import Victims, running_victims


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder where syncing costs nothing."""
    with quick_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def victims(memory: Path) -> Iterator[Victims]:
    """What forks the processes that are killed."""
    with running_victims(memory / "victims") as running:
        yield running
