"""Commands that change keys and releases, one by one: what each begins with, and what clients see.

`make_fleet` is a data folder where ONE is released to two devices; a row of `COMMANDS` acts
on a copy of it. Wherever one is cut off, clients see what was there before or all of what
it does, and running it again ends it.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from support_agent import FAMILY, make_bundle
from support_repository import _Folder
from tuf.ngclient import Updater

from wherry.cli import run
from wherry.keys import load_signer, public_path, read_public
from wherry.repository.ceremony import mark
from wherry.repository.lab import hold_ceremony
from wherry.repository.repository import Repository
from wherry.rows import DeviceRow
from wherry.server.database import Database
from wherry.server.depot import Depot
from wherry.server.store import Store
from wherry_contract.fleet_keys import TARGET, FleetKeys
from wherry_contract.messages import unwrap_assignment

ONE = make_bundle("1.0.0")
TWO = make_bundle("2.0.0", bias=-2.9, counter=2)
DEVICES = ("till-1", "till-2")
MODELS = f"models/{FAMILY}"
_MODELS_KEYS = ("--key", "models-1", "--key", "models-2")
_TARGETS_KEYS = ("--key", "targets-1", "--key", "targets-2")
_ROOT_KEYS = ("--key", "root-2", "--key", "root-3")


@dataclass(frozen=True)
class Command:
    """A row.

    Attributes:
        words: the command; `{data}` and `{out}` stand for folders.
        before: commands that are run first, with the exit code of each.
        again: exit codes of the command when it runs a second time, after it was cut off.
        ends: commands that lead on to the end where it leaves that to others.
    """

    words: str
    before: Sequence[tuple[str, int]] = ()
    again: Sequence[int] = (0,)
    ends: Sequence[str] = ()
    code: int = 0


def _key(name: str) -> str:
    return f"key generate {name} --data {{data}}"


_TWO = "publish {data}/two.wherry --data {data}"
_BOTH = " ".join((*_MODELS_KEYS, *_TARGETS_KEYS))
_M1, _M2 = (f"--key models-{number}" for number in (1, 2))
_R, _T, _M = (" ".join(keys) for keys in (_ROOT_KEYS, _TARGETS_KEYS, _MODELS_KEYS))

COMMANDS = {
    # who has nothing else to do releases alone, with both keys
    "publish": Command(f"{_TWO} {_M}"),
    "stage": Command(f"{_TWO} {_M1}", again=(1,), code=1, ends=[f"publish --data {{data}} {_M}"]),
    "sign": Command(
        f"sign {MODELS} {_M2} --data {{data}}",
        before=[(f"{_TWO} {_M1}", 1)],
        again=(0, 1),  # 1: it had signed
        ends=["publish --data {data}"],
    ),
    "end": Command(
        "publish --data {data}",
        before=[(f"{_TWO} {_M1}", 1), (f"sign {MODELS} {_M2} --data {{data}}", 0)],
    ),
    "withdraw": Command(
        f"publish --withdraw {ONE.digest} --data {{data}} {_M}",
        again=(0, 1),  # 1: it is listed no more
    ),
    "floor": Command(f"publish --floor 1 --family {FAMILY} --data {{data}} {_M}"),
    "family": Command(f"publish --family other --data {{data}} {_T} {_M}"),
    "renew": Command(f"publish --renew root --renew targets --data {{data}} {_R} {_T}"),
    "generate": Command(_key("root-4"), again=(0, 3)),  # 3: it is there
    "rotate root": Command(
        f"key rotate root --old root-1 --new root-4 --data {{data}} {_R} --key root-4",
        before=[(_key("root-4"), 0)],
        again=(0, 1),  # 1: root-1 has no part in it any more
    ),
    "rotate models": Command(
        f"key rotate {MODELS} --old models-1 --new models-3 --data {{data}} {_T} {_M2} --key models-3",
        before=[(_key("models-3"), 0)],
        again=(0, 1),
    ),
    "rotate assignment": Command(
        f"key rotate assignment --old assignment --new assignment-2 --data {{data}} {_T}",
        before=[(_key("assignment-2"), 0)],
        again=(0, 1),
    ),
    "revoke": Command(f"key revoke root-1 --data {{data}} {_R}", again=(0, 1)),
    "export": Command("export {out} {data}/one.wherry --data {data}"),
}


def make_fleet(data: Path) -> None:
    """ONE is released; two devices are enrolled."""
    hold_ceremony(Repository(data), data / "keys", [FAMILY])
    for name, made in (("one", ONE), ("two", TWO)):
        (data / f"{name}.wherry").write_bytes(made.to_tar())
    act(data, f"publish {{data}}/one.wherry --data {{data}} {_M}")
    store = Store(Database(data / "fleet.sqlite"), Depot(data / "depot", data / "keys"))
    for name in DEVICES:
        store.enrol(DeviceRow(name, FAMILY, {}, 1.0))
    store.close()


def filled(data: Path, words: str) -> list[str]:
    """The words of a command on a data folder; what it writes beside goes into `out` there."""
    return words.format(data=data, out=data / "out").split()


def act(data: Path, words: str, codes: Sequence[int] = (0,)) -> str:
    """Run a command in this process; returns what it said."""
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = run(filled(data, words))
    assert code in codes, f"{words}: {code}\n{said.getvalue()}"
    return said.getvalue()


# --- what is seen ---------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """What a client sees that comes with the first root.

    Attributes:
        signers: ids of the keys of the root, of targets and of each family.
        listed: release counters of ONE and TWO, where they are listed.
        floor: of the family.
        orders: ids of the keys that may order.
        families: for whom bundles may be released.
        keys: names of the keys that can sign here.
        stick: whether a stick is whole.
        stepped: versions of root, targets and family, which only grow.
    """

    signers: tuple[frozenset[str], ...]
    listed: tuple[tuple[str, int], ...]
    floor: int
    orders: frozenset[str]
    families: frozenset[str]
    keys: frozenset[str]
    stick: bool
    stepped: tuple[int, int, int] = field(compare=False)


def fetch(depot: Path, root: bytes, memory: Path) -> tuple[Updater, dict[str, Any]]:
    """Refresh TUF's own client from a folder; returns it and what is listed of ONE and TWO."""
    memory.mkdir(parents=True, exist_ok=True)
    base = f"file://{depot}"
    client = Updater(
        str(memory), f"{base}/tuf/", str(memory), f"{base}/targets/", _Folder(), bootstrap=root
    )
    client.refresh()
    listed: dict[str, Any] = {}
    for made in (ONE, TWO):
        path = f"{MODELS}/{made.digest.partition(':')[2]}"
        if target := client.get_targetinfo(path):
            listed[made.digest] = target.unrecognized_fields["custom"]["wherry"]
    return client, listed


def view(data: Path, root: bytes, memory: Path | None = None) -> View:
    """What a client sees; raises what it raises. It keeps its memory where that is given."""
    with TemporaryDirectory() as fresh:
        client, listed = fetch(data / "depot", root, memory or Path(fresh))
        trusted = client._trusted_set
        found = client.get_targetinfo(TARGET)
        assert found, "nobody may order"
        keys = FleetKeys.from_bytes(Path(client.download_target(found)).read_bytes())
    depot = Depot(data / "depot", data / "keys", Repository(data))
    for digest in listed:
        assert depot.holds(digest), f"{digest} is listed, and not whole"
    models = trusted[MODELS]  # whoever looks for a bundle has fetched it
    delegated = trusted.targets.delegations.roles
    roles = [*(trusted.root.roles[role] for role in ("root", "targets")), *delegated.values()]
    return View(
        tuple(frozenset(role.keyids) for role in roles),
        tuple((digest, says["counter"]) for digest, says in listed.items()),
        mark(models).get("min_counter", 0),
        frozenset(key.keyid for key in keys.assignment_keys),
        frozenset(delegated),
        private_keys(data / "keys"),
        stick_is_whole(data / "out", root),
        (trusted.root.version, trusted.targets.version, models.version),
    )


def private_keys(folder: Path) -> frozenset[str]:
    """Names of the keys that can sign; each public file has its private half."""
    names = [path.name.removesuffix(".pub.json") for path in folder.glob("*.pub.json")]
    for name in names:
        path = folder / f"{name}.key"
        assert read_public(public_path(path)).keyid == load_signer(path).public_key.keyid, path
    return frozenset(names)


def stick_is_whole(stick: Path, root: bytes) -> bool:
    """Whether a stick lists ONE, has its file and an order for each device."""
    names = [f"{device}.json" for device in DEVICES]
    if not all((stick / "assignments" / name).is_file() for name in names):
        return False
    with TemporaryDirectory() as memory:
        listed = fetch(stick, root, Path(memory))[1]
    assert ONE.digest in listed
    assert (stick / "one.wherry").read_bytes() == ONE.to_tar()
    for name in names:
        unwrap_assignment((stick / "assignments" / name).read_bytes())
    return True


def sequences(stick: Path) -> list[int]:
    """Of the orders on a stick."""
    orders = [unwrap_assignment(path.read_bytes()) for path in stick.glob("assignments/*.json")]
    payloads = [base64.b64decode(json.loads(order)["payload"]) for order in orders]
    return [int(json.loads(payload)["sequence"]) for payload in payloads]


def copied(fleet: Path, to: Path) -> Path:
    """A copy of a data folder."""
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(fleet, to, symlinks=True))
