"""Fixtures for every test."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support import (
    EMULATED,
    SHARED,
    Mosquitto,
    emulation_required,
    emulators_missing,
    examples,
    running_mosquitto,
)

# a shell that starts us in the background ignores SIGINT for us, and programs inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)

# machines of CI are shared and slow: no example is wrong for taking long
settings.register_profile(
    "wherry",
    deadline=None,
    max_examples=examples(100),
    suppress_health_check=[HealthCheck.too_slow] * EMULATED,
)
settings.load_profile("wherry")


def pytest_sessionstart() -> None:
    """Where boards must be tried nothing starts without QEMU, so that no test of them is skipped."""
    missing = [] if EMULATED else emulators_missing()
    if missing and emulation_required():
        raise pytest.UsageError(f"boards must be tested here, and there is no {', '.join(missing)}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded as ``figure``; it comes through from workers, too."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "figure":
                terminalreporter.write_line(f"{report.nodeid}: {value}")


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
