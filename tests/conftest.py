"""Fixtures for every test."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from support import SHARED, Mosquitto, running_mosquitto

# a shell that starts us in the background ignores SIGINT for us, and programs inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)

# machines of CI are shared and slow: no example is wrong for taking long
settings.register_profile("wherry", deadline=None)
settings.load_profile("wherry")


@pytest.fixture
def shared() -> Path:
    """The shared data; it is absent on a user's machine."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED}")
    return SHARED


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of the test's own."""
    with running_mosquitto(tmp_path / "broker") as broker:
        yield broker
