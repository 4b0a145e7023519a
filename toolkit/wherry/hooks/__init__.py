"""Hooks: telling others' programs, once for each cause, that a model should be trained anew."""

from .causes import Cause, causes
from .ledger import Ledger
from .run import Told, tell
from .settings import Hooks, read_hooks

__all__ = ["Cause", "Hooks", "Ledger", "Told", "causes", "read_hooks", "tell"]
