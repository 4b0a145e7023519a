"""The device agent: runs on the board, scores payments, and never waits for a network.

It imports the contract and nothing of the host. Third-party: numpy everywhere, paho only
in `mqtt`, h11 only in `connection`, each inference runtime only in its own `runtime_` file.
"""

from typing import TYPE_CHECKING, Any

from .installed import installed_version

if TYPE_CHECKING:
    from .in_process import Scorer

try:
    __version__ = installed_version("wherry")
except ImportError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["Scorer"]


def __getattr__(name: str) -> Any:
    """`Scorer`, imported when it is asked for: the agent's own commands do without numpy."""
    if name == "Scorer":
        from .in_process import Scorer

        return Scorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
