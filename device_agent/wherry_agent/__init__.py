"""The device agent: runs on the board, scores payments, and never waits for a network.

It imports the contract and nothing of the host. Third-party: numpy everywhere, paho only
in `mqtt`, h11 only in `server`, each inference runtime only in its own `runtime_` file.
"""

from .installed import installed_version

try:
    __version__ = installed_version("wherry")
except ImportError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
