"""The host side of Wherry: make bundles, roll them out, watch the fleet."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("wherry")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
