"""What the board's own packages are, so that the host can show who runs what."""

from __future__ import annotations

import platform
import ssl
from functools import cache
from typing import Final

_MOST: Final = 64  # characters of each


@cache
def system() -> dict[str, str]:
    """Operating system, kernel, Python and OpenSSL, each as it calls itself."""
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:  # a board without /etc/os-release
        name = ""
    found = {
        "os": name,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
    }
    return {what: text[:_MOST] for what, text in found.items()}
