"""What a board gets of Wherry: the real wheel's files, from a checkout or from what pip recorded."""

from __future__ import annotations

import base64
import csv
import hashlib
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from support import ROOT

from wherry.boards.agent import lay_out_agent
from wherry.boards.wheel import PACKAGES, installed_files, source, wheel
from wherry_contract.errors import SetupError


@pytest.fixture(scope="module")
def built() -> Path:
    assert source() == ROOT
    return wheel(ROOT)


@pytest.fixture
def installed(built: Path, tmp_path: Path) -> PathDistribution:
    """The whole wheel, as pip lays it into a folder of modules."""
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path / "site")
    return PathDistribution(next((tmp_path / "site").glob("*.dist-info")))


def laid_out(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_board_has_the_wheels_agent_and_contract_to_the_last_byte(
    built: Path, tmp_path: Path
) -> None:
    lay_out_agent(tmp_path / "agent")
    found = laid_out(tmp_path / "agent")
    record = next(name for name in found if name.endswith("/RECORD"))
    digests = {name: digest for name, digest, _ in csv.reader(found[record].decode().splitlines())}
    wanted = {name for name in digests if name.startswith((*PACKAGES, record.split("/")[0]))}
    assert set(found) == wanted
    for name in wanted - {record}:
        digest = base64.urlsafe_b64encode(hashlib.sha256(found[name]).digest()).decode()
        assert digests[name] == "sha256=" + digest.rstrip("="), name
    # and what is in the checkout is in the wheel, data files too
    for package, folder in zip(PACKAGES, ("device_agent", "contract"), strict=True):
        here = {
            name: data
            for name, data in laid_out(ROOT / folder / package).items()
            if "__pycache__" not in name
        }
        prefix = f"{package}/"
        assert here == {
            name.removeprefix(prefix): data
            for name, data in found.items()
            if name.startswith(prefix)
        }


def test_without_a_checkout_it_has_what_pip_recorded(
    installed: PathDistribution, tmp_path: Path
) -> None:
    lay_out_agent(tmp_path / "agent")
    assert dict(installed_files(installed)) == laid_out(tmp_path / "agent")


@pytest.mark.parametrize("gone", [True, False])
def test_a_file_that_is_not_as_it_was_installed_is_refused(
    installed: PathDistribution, *, gone: bool
) -> None:
    path = Path(str(installed.locate_file("wherry_agent/serving/probe.py")))
    if gone:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(
        SetupError, match=r"wherry_agent/serving/probe\.py is not as it was installed"
    ):
        installed_files(installed)
