"""The first start of a board that `wherry flash` wrote: enrol, install the first bundle, go on.

A flashed folder has either a ready `agent.toml` or a claim code in `claim.toml`, and perhaps
a bundle in `first`. Both are used up: what is left behind is the folder of any other agent.
Each step may be cut off anywhere, and is gone on with at the next start.
"""

from __future__ import annotations

import logging
import random
import shutil
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wherry_agent.config import AgentConfig, load_config
from wherry_agent.pulse import Notifier
from wherry_agent.store import StatePair
from wherry_agent.update.record import DeviceRecord
from wherry_contract.bundle import open_bundle
from wherry_contract.errors import SetupError, WherryError
from wherry_contract.wire import SETTINGS, Fields

from .enrolment import Enrolment, enrol

CLAIM_FILE: Final = "claim.toml"
FIRST_FOLDER: Final = "first"
_LIMIT_BYTES: Final = 16 * 1024
_PAUSES_SECONDS: Final = (2.0, 900.0)  # doubled each time, with jitter
_NAP_SECONDS: Final = 5.0

_log = logging.getLogger("wherry")


@dataclass(frozen=True)
class Claim:
    """What `claim.toml` says: where to enrol, and with what.

    Attributes:
        url: of the server's enrolment.
        claim: the code.
        device: the id that is wanted; "" for the one that the code names.
        listen: the serving port; "" for the default.
    """

    url: str
    claim: str
    device: str = ""
    listen: str = ""


def read_claim(path: Path) -> Claim:
    """Read `claim.toml`.

    Raises:
        SetupError: H02 or H08.
    """
    try:
        data = path.read_bytes()[: _LIMIT_BYTES + 1]
        if len(data) > _LIMIT_BYTES:
            raise SetupError("H08", f"{path.name} has more than {_LIMIT_BYTES} bytes")
        fields = Fields(tomllib.loads(data.decode()), path.name, SETTINGS)
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise SetupError("H08", f"{path.name}: {error}") from error
    return Claim(
        url=fields.text("url"),
        claim=fields.text("claim", limit=200),
        device=fields.text("device", ""),
        listen=fields.text("listen", ""),
    )


def prepare(
    path: Path, notifier: Notifier, sleep: Callable[[float], None] = time.sleep
) -> AgentConfig:
    """Make what a first start needs, if this is one, and read the configuration.

    Args:
        path: of agent.toml, which need not be there yet if there is a claim beside it.
        notifier: the service manager is told what is waited for.
        sleep: waits for so many seconds.

    Raises:
        SetupError: H02 or H08, there is neither a configuration nor a claim.
    """
    # by its own name: a link that `wherry flash` switches must not move us to another folder
    path = path.parent.resolve() / path.name
    claim = path.with_name(CLAIM_FILE)
    if claim.exists() and not path.exists():
        _enrol(path.parent, notifier, sleep)
    config = load_config(path)
    claim.unlink(missing_ok=True)  # it is used up
    first = path.with_name(FIRST_FOLDER)
    if first.is_dir():
        notifier.status("installing the first bundle")
        _install_first(config, first)
    return config


def _enrol(folder: Path, notifier: Notifier, sleep: Callable[[float], None]) -> None:
    """Enrol, however long it takes until there is a network."""
    notifier.ready()  # nothing is served yet, but there is nothing to restart
    pause, most = _PAUSES_SECONDS
    while True:
        try:
            claim = read_claim(folder / CLAIM_FILE)
            enrol(
                Enrolment(claim.url, claim.claim, claim.device, claim.listen, folder, again=False)
            )
        except WherryError as error:
            _log.warning("not enrolled yet: %s", error)
            notifier.status(f"not enrolled yet: {error}")
        else:
            _log.info("enrolled")
            return
        left = pause * (0.5 + random.random() / 2)  # noqa: S311 - jitter
        pause = min(most, 2 * pause)
        while left > 0:
            notifier.alive()
            sleep(min(left, _NAP_SECONDS))
            left -= _NAP_SECONDS


def _install_first(config: AgentConfig, folder: Path) -> None:
    """Install the bundle that came with the card, through every check and the probe.

    What is refused stays refused (it is in the record), and is reported like any other.
    """
    try:
        document = StatePair(config.state_dir).peek() if config.state_dir.is_dir() else None
        record = DeviceRecord.from_dict(document or {})
        if not record.active:
            _install(config, folder, record)
    except WherryError as error:  # the agent runs without: the fleet's order may bring another
        _log.error("the first bundle was not installed: %s", error)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _install(config: AgentConfig, folder: Path, record: DeviceRecord) -> None:
    from wherry_agent.update.install import (  # resident memory is dear
        ORDERS_FOLDER,
        install_file,
        install_folder,
    )

    if (folder / ORDERS_FOLDER / f"{config.device}.json").exists():
        install_folder(config, folder)
        return
    for path in sorted(folder.glob("*.wherry")):
        with path.open("rb") as stream:
            digest = open_bundle(stream).digest
        rollout = f"first-{digest.partition(':')[2][:12]}"
        if (rollout, digest) not in record.denied:
            install_file(config, path, rollout=rollout)
            return
    raise SetupError("H02", f"{folder} has no bundle that was not refused here")
