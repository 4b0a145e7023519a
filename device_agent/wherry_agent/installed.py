"""Which version of a distribution is installed, by the name of its folder of metadata.

`importlib.metadata` tells the same, and costs the resident agent near a MiB for it: it carries
readers of zip files, tables and mails.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def installed_version(name: str) -> str:
    """The version of a distribution, as ``1.28.0``; of two, the first on the path counts.

    Args:
        name: as pip knows it: ``tflite-runtime``.

    Raises:
        ImportError: it is not installed.
    """
    start = name.replace("-", "_") + "-"
    # PEP 427, and what distributions of Linux still write
    form = re.compile(re.escape(start) + r"([^-]+)(?:\.dist-info|(?:-py[0-9.]+)?\.egg-info)")
    for place in sys.path:
        for path in Path(place).glob(f"{start}*"):
            if found := form.fullmatch(path.name):
                return found[1]
    raise ImportError(f"{name} is not installed")
