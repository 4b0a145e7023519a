"""A scrape configuration, alert rules and a dashboard, as a folder that Prometheus can start from."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from wherry.files import as_store_error, write_durably
from wherry_contract.errors import SetupError

SCRAPE: Final = "prometheus.yml"
NAMES: Final = (SCRAPE, "alerts.yml", "dashboard.json")


def kit(target: str, token: Path) -> dict[str, str]:
    """The files by name.

    Args:
        target: ``host:port`` of the server's HTTP.
        token: the file with the token that opens the metrics.
    """
    folder = files("wherry.watch") / "files"
    found = {name: (folder / name).read_text(encoding="utf-8") for name in NAMES}
    place = json.dumps(str(token.absolute()))  # a JSON string is a YAML one
    found[SCRAPE] = found[SCRAPE].replace("@TOKEN@", place).replace("@TARGET@", target)
    return found


def write_kit(folder: Path, data: Path) -> list[Path]:
    """Write the files for the server of a data folder.

    Args:
        folder: where; it is made, and files of these names are replaced.
        data: the server's.

    Returns:
        What was written.

    Raises:
        SetupError: H07, the server has not run here yet.
        StoreError: D01 or D06.
    """
    try:
        url = json.loads((data / "server.json").read_bytes())["url"]
    except (OSError, ValueError, KeyError) as error:
        cure = "start `wherry serve`, and say where its folder is: --data, or $WHERRY_HOME"
        raise SetupError("H07", f"no server runs in {data}", cure=cure) from error
    found = kit(urlsplit(url).netloc, data / "metrics.token")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_store_error(error, str(folder)) from error
    for name, text in found.items():
        write_durably(folder / name, text.encode())
    return [folder / name for name in found]
