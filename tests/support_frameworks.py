"""Tests of frameworks that live in environments of their own: skipped, or required."""

from __future__ import annotations

import os

import pytest

from wherry_convert.environments import MARK, folder_of

# set by `make test`, which makes the environments: there a missing one fails the tests
REQUIRED = os.environ.get("WHERRY_FRAMEWORKS") == "required"


def needs_framework(name: str) -> pytest.MarkDecorator:
    """A mark for tests that run a framework's environment."""
    absent = not (folder_of(name) / MARK).exists()
    return pytest.mark.skipif(
        absent and not REQUIRED, reason=f"run: wherry doctor --install {name}"
    )
