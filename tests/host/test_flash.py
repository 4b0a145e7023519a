"""Flashing: what lies on a card or a board afterwards, and what a kill or a bad board leaves."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import IO

import pytest
from support_flash import (
    BOARD,
    NEW_FOLDER,
    OLD_FOLDER,
    Sshd,
    make_card,
    recipe,
    running_sshd,
    small_kit,
    tree,
)
from support_shim import Page, quick_folder

import wherry.flash
from wherry.boards.emulator import run_python
from wherry.boards.overlay import Pin
from wherry.boards.root import create
from wherry.cli import run
from wherry.flash.carry import run_script, way_to
from wherry.flash.kit import Kit
from wherry.flash.terminal import Folder
from wherry.flash.work import Plan, carry_out, look_at, read_survey, refusal
from wherry_contract.errors import SetupError
from wherry_contract.identity import ClaimCode
from wherry_convert.environments import FOLDER_VARIABLE

CODE = ClaimCode.new(b"an authority").text
URL = "https://127.0.0.1:1/enrol"
PIN = Pin("onnxruntime", "1.27.0")


def plan_for(to: str, kit: Kit, folder: Folder, ssh: Sshd | None = None) -> Plan:
    way = way_to(to, ssh_config=ssh.config if ssh else None)
    return Plan(way, BOARD, PIN, kit, folder, look_at(way, recipe(), kit.key, folder), start=False)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("ssh") / "d") as running:
        yield running


# --- what lies there ------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["a card", "ssh"])
def test_what_lies_on_the_board(over: str, sshd: Sshd, tmp_path: Path) -> None:
    card, kit = make_card(tmp_path / "card"), small_kit(tmp_path)
    to = sshd.to(card) if over == "ssh" else str(card)
    carry_out(plan_for(to, kit, OLD_FOLDER, sshd))
    found = tree(card)
    assert found["opt/wherry/current"] == f"-> {kit.key}"
    assert found["var/lib/wherry/current"] == f"-> {OLD_FOLDER.name}"
    unit = "etc/systemd/system/wherry-agent.service"
    assert found[unit] == "-> /opt/wherry/current/wherry-agent.service"
    assert found["etc/systemd/system/multi-user.target.wants/wherry-agent.service"] == (
        "-> ../wherry-agent.service"
    )
    secret = f"var/lib/wherry/{OLD_FOLDER.name}"
    assert found[secret] == found["var/lib/wherry"] == "700 folder"
    assert found[f"{secret}/claim.toml"].startswith("600 ")
    assert found[f"opt/wherry/{kit.key}"] == "755 folder"
    assert found[f"opt/wherry/{kit.key}/agent/a.py"].startswith("644 ")
    assert (card / secret / "claim.toml").read_bytes() == b"old"
    owner = os.geteuid(), os.getegid()
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in card.rglob("*")} == {owner}


def test_twice_is_once(sshd: Sshd, tmp_path: Path) -> None:
    card, kit = make_card(tmp_path / "card"), small_kit(tmp_path)
    carry_out(plan_for(str(card), kit, OLD_FOLDER))
    (card / "var/lib/wherry" / OLD_FOLDER.name / "state.0").write_text("the agent's memory")
    before = tree(card)
    for to in (str(card), sshd.to(card)):
        plan = plan_for(to, kit, OLD_FOLDER, sshd)
        assert (plan.done, plan.size) == (True, 0)
        carry_out(plan)  # even so
        assert tree(card) == before


def test_the_former_agent_and_folder_stay(tmp_path: Path) -> None:
    """A running agent imports from its own kit, and its memory is nobody's to throw away."""
    card = make_card(tmp_path / "card")
    kits = [small_kit(tmp_path, word) for word in (b"one", b"two", b"three")]
    for kit, folder in zip(kits, (OLD_FOLDER, NEW_FOLDER, NEW_FOLDER), strict=True):
        carry_out(plan_for(str(card), kit, folder))
    left = {path.name for path in (card / "opt/wherry").iterdir()}
    assert left == {"current", "former", kits[1].key, kits[2].key}
    assert (card / "var/lib/wherry" / OLD_FOLDER.name / "claim.toml").exists()


def test_what_the_first_start_made_private_stays_the_agents(tmp_path: Path) -> None:
    """The service manager moves the folder of a service with a user of its own, and leaves a link."""
    card, kit = make_card(tmp_path / "card"), small_kit(tmp_path)
    (card / "var/lib/private/wherry").mkdir(parents=True, mode=0o700)
    (card / "var/lib/wherry").symlink_to("private/wherry")
    if os.geteuid() == 0:
        os.chown(card / "var/lib/private/wherry", 61000, 61000)
    carry_out(plan_for(str(card), kit, OLD_FOLDER))
    home = card / "var/lib/private/wherry"
    owners = {path.lstat().st_uid for path in (home, *home.rglob("*"))}
    assert owners == {home.stat().st_uid}
    assert (home / "current").readlink() == Path(OLD_FOLDER.name)


# --- killed ---------------------------------------------------------------------------------


def _place(card: Path, kit: Kit, folder: Folder, page: Page | None) -> int:
    """Run `place.sh` under the shim; returns its exit code."""
    text = files(wherry.flash).joinpath("place.sh").read_text()
    survey = plan_for(str(card), kit, folder).survey
    device = b"" if survey.has_device else folder.to_tar()
    content = b"" if survey.has_kit else kit.file.read_bytes()
    sizes = [str(len(content)), str(len(device))]
    command = ["sh", "-c", text, "wherry", str(card), kit.key, folder.name, *sizes, "no"]
    done = subprocess.run(
        command,
        input=content + device,
        env=os.environ | (page.environment() if page else {}),
        capture_output=True,
        check=False,
    )
    return done.returncode


def test_killed_at_every_call_it_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    kits = [small_kit(tmp_path, word) for word in (b"old", b"new")]
    with quick_folder() as memory:
        base = make_card(memory / "base")
        carry_out(plan_for(str(base), kits[0], OLD_FOLDER))
        wanted = shutil.copytree(base, memory / "wanted", symlinks=True)
        page = Page(memory / "page", wanted)
        page.set(armed=1)
        assert _place(wanted, kits[1], NEW_FOLDER, page) == 0
        whole, calls = tree(wanted), page.get("begun")
        assert calls > 20
        seen = set()
        for kill_at in range(1, calls + 1):
            card = shutil.copytree(base, memory / "card", symlinks=True)
            page = Page(memory / "page", card)
            page.set(armed=1, kill_at=kill_at)
            _place(card, kits[1], NEW_FOLDER, page)
            seen.add(_check_whole(card, whole))
            assert _place(card, kits[1], NEW_FOLDER, None) == 0
            assert tree(card) == whole, f"after a kill at call {kill_at} of {calls}"
            shutil.rmtree(card)
    assert {("old", "old"), ("new", "new")} <= seen


def _check_whole(card: Path, whole: dict[str, str]) -> tuple[str, str]:
    """What is in use is all there; returns which."""
    found = tree(card)
    for place in ("opt/wherry", "var/lib/wherry"):
        used = f"{place}/{(card / place / 'current').readlink()}"
        here = {name: what for name, what in found.items() if name.startswith(f"{used}/")}
        assert here
        assert here == {name: what for name, what in whole.items() if name.startswith(f"{used}/")}
    kit = "new" if found["opt/wherry/current"] == whole["opt/wherry/current"] else "old"
    device = "new" if found["var/lib/wherry/current"] == whole["var/lib/wherry/current"] else "old"
    return kit, device


@pytest.mark.parametrize("over", ["a card", "ssh"])
@pytest.mark.parametrize("where", ["nothing", "in a file", "after a file", "before the last"])
def test_a_line_that_is_cut_leaves_the_old(
    where: str, over: str, sshd: Sshd, tmp_path: Path
) -> None:
    card, kits = make_card(tmp_path / "card"), [small_kit(tmp_path, word) for word in (b"a", b"b")]
    carry_out(plan_for(str(card), kits[0], OLD_FOLDER))
    before = tree(card)
    way = way_to(sshd.to(card) if over == "ssh" else str(card), ssh_config=sshd.config)
    content, device = kits[1].file.read_bytes(), NEW_FOLDER.to_tar()
    sizes = [str(len(content)), str(len(device))]
    with tarfile.open(fileobj=io.BytesIO(device)) as tar:
        members = [item.offset for item in tar.getmembers()]
    kept = {
        "nothing": 0,
        "in a file": len(content) // 3,
        "after a file": len(content) + members[-2],
        "before the last": len(content) + members[-1],
    }[where]
    feed: list[IO[bytes]] = [io.BytesIO((content + device)[:kept])]
    with pytest.raises(SetupError, match="H16"):
        run_script(way, "place.sh", [way.root, kits[1].key, NEW_FOLDER.name, *sizes, "no"], feed)
    found = tree(card)
    assert {name: found[name] for name in before} == before
    carry_out(plan_for(str(card), kits[1], NEW_FOLDER))
    assert not [name for name in tree(card) if ".new" in name]


# --- boards that are not flashed ------------------------------------------------------------

BOARDS: dict[str, tuple[dict[str, object], str]] = {
    "of another architecture": ({"architecture": "armhf"}, "it is armhf, the board pi3 is arm64"),
    "with another Python": ({"python": "python3.13"}, "it has python3.13"),
    "without Python": ({"python": ""}, "no /usr/bin/python3"),
    "without openssl": ({"without": ["openssl"]}, "apt-get install openssl"),
}


@pytest.mark.parametrize(("card", "said"), BOARDS.values(), ids=BOARDS.keys())
def test_a_board_that_is_not_the_boards(card: dict[str, object], said: str, tmp_path: Path) -> None:
    made = make_card(tmp_path / "card", **card)  # type: ignore[arg-type]
    before = tree(made)
    with pytest.raises(SetupError, match="H16") as caught:
        plan_for(str(made), small_kit(tmp_path), OLD_FOLDER)
    assert said in caught.value.render()
    assert tree(made) == before


def test_a_card_is_looked_at_before_anything_is_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "empty"))
    card = make_card(tmp_path / "card", python="")
    words = ["flash", str(card), "--board", BOARD, "--device", "till-1", "--claim", CODE]
    assert run([*words, "--enrol-url", URL, "--yes"]) == 3
    said = capsys.readouterr().err
    assert "it has no /usr/bin/python3" in said
    assert "fetching" not in said
    assert not (tmp_path / "empty").exists()


def test_a_link_that_leads_out_of_the_card(tmp_path: Path) -> None:
    made = make_card(tmp_path / "card")
    (tmp_path / "mine").mkdir()
    (made / "opt").symlink_to(tmp_path / "mine")
    with pytest.raises(SetupError, match="leads out of the card"):
        plan_for(str(made), small_kit(tmp_path), OLD_FOLDER)


def test_a_board_without_room(tmp_path: Path) -> None:
    made, kit = make_card(tmp_path / "card"), small_kit(tmp_path)
    found = plan_for(str(made), kit, OLD_FOLDER).survey
    assert refusal(found, recipe(), 1) is None
    assert "MiB are free" in (refusal(found, recipe(), found.free_kib) or ("",))[0]


@pytest.mark.parametrize("text", ["", "user=0\n", "hello"])
def test_an_answer_that_is_none(text: str) -> None:
    with pytest.raises(SetupError, match="H16"):
        read_survey(text)


ADDRESSES: dict[str, str] = {
    "a folder that is not there": "{here}/nowhere",
    "no host": "ssh://",
    "a host that is an option": "ssh://-oProxyCommand=id/",
    "a port that is none": "ssh://h:99999/",
}


@pytest.mark.parametrize("to", ADDRESSES.values(), ids=ADDRESSES.keys())
def test_an_address_that_is_none(tmp_path: Path, to: str) -> None:
    with pytest.raises(SetupError, match="H16"):
        way_to(to.format(here=tmp_path))


def test_a_server_that_lets_us_not_in(sshd: Sshd, tmp_path: Path) -> None:
    stranger = tmp_path / "ssh"
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    text = sshd.config.read_text()
    stranger.write_text(text.replace(f"{sshd.config.parent}/user\n", f"{other}\n", 1))
    way = way_to(sshd.to(tmp_path), ssh_config=stranger)
    with pytest.raises(SetupError, match="Permission denied") as caught:
        run_script(way, "survey.sh", ["/", "k", "d"])
    assert "see that `ssh` gets there by itself" in caught.value.render()


# --- the command ----------------------------------------------------------------------------


def test_it_asks_before_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real kit of a real board: its wheels come with their digests."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    card = make_card(tmp_path / "card")
    words = ["flash", str(card), "--board", BOARD, "--device", "till-1", "--claim", CODE]
    before = tree(card)
    assert run([*words, "--enrol-url", URL]) == 3
    assert "error[H09]" in capsys.readouterr().err
    assert tree(card) == before
    assert run([*words, "--enrol-url", URL, "--yes"]) == 0
    kit = card / "opt/wherry/current"
    for name in ("agent/wherry_agent", "agent/wherry_contract", "runtime/onnxruntime", "site/tuf"):
        assert (kit / name).is_dir()
    assert not list(kit.glob("**/click")), "what the host alone needs"
    unit = (kit / "wherry-agent.service").read_text()
    assert f"/opt/wherry/{kit.readlink()}/agent:" in unit
    assert "/opt/wherry/current" not in unit


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(shutil.which, ("qemu-aarch64", "apt-get", "dpkg-deb"))),
    reason="needs QEMU's user mode: apt install qemu-user",
)
def test_the_boards_own_python_finds_all_of_the_kit(tmp_path: Path) -> None:
    """What was written, under the board's processor: nothing that the agent imports is left out."""
    card = make_card(tmp_path / "card")
    words = ["flash", str(card), "--board", BOARD, "--device", "till-1", "--claim", CODE]
    assert run([*words, "--enrol-url", URL, "--yes"]) == 0
    place = create(recipe(), lambda _: None).place
    kit = (card / "opt/wherry/current").resolve()
    done = run_python(
        place,
        ["-c", IMPORTS],
        overlays=[kit / name for name in ("agent", "runtime", "site")],
        settings={"KIT": str(kit)},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == ["onnxruntime", "1.27.0", "aarch64"]


# the environment has wheels of its own, which a real board has not
IMPORTS = """
import os, platform, sys
sys.path = [path for path in sys.path if "/site" not in path or os.environ["KIT"] in path]
import numpy, onnxruntime, tuf.api.metadata, wherry_agent.app, wherry_agent.identity.first_start
import wherry_agent.update.install, wherry_agent.trust.tuf_client, wherry_agent.trust.tuf_verify
from wherry_agent.serving.runtime import installed
for name in ("numpy", "onnxruntime", "tuf", "paho", "h11", "wherry_agent", "wherry_contract"):
    assert sys.modules[name].__file__.startswith(os.environ["KIT"]), sys.modules[name].__file__
print(*installed(), platform.machine())
"""


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('device = "till-2"\n', "is of the device 'till-2', not of 'till-1'"),
        ("", "is of no device"),
    ],
)
def test_papers_of_another_device(
    config: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.toml").write_text(config)
    card = str(make_card(tmp_path / "card"))
    words = ["--board", BOARD, "--device", "till-1", "--papers", str(tmp_path)]
    assert run(["flash", card, *words]) == 3
    told = capsys.readouterr().err
    assert told.startswith("error[H16]: the board cannot be flashed\n  why:  ")
    assert said in told
    assert "next: name the folder that `wherry device add` wrote" in told


@pytest.mark.parametrize(
    ("words", "exit_code", "code"),
    [
        (["--claim", "ABC", "--enrol-url", URL], 1, "I01"),
        (["--papers", "/nowhere"], 3, "H02"),
        (["--claim", CODE, "--enrol-url", URL, "--first", "/nowhere"], 3, "H02"),
    ],
)
def test_a_code_or_a_file_that_is_none(
    words: list[str], exit_code: int, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = str(make_card(tmp_path / "card"))
    assert run(["flash", card, "--board", BOARD, "--device", "till-1", *words]) == exit_code
    told = capsys.readouterr().err
    assert told.startswith(f"error[{code}]: ")
    assert "\n  next: " in told


USAGE: dict[str, tuple[list[str], str]] = {
    "no device": (["--claim", CODE, "--enrol-url", URL, "--device", "Till 1"], "lower-case"),
    "neither papers nor a code": (["--device", "till-1"], "one of papers, claim"),
    "a code without an address": (["--device", "till-1", "--claim", CODE], "url"),
    "a family without a batch": (["--device", "till-1", "--family", "fraud"], "for --batch"),
    "a runtime that is none": (
        ["--device", "till-1", "--claim", CODE, "--enrol-url", URL, "--runtime", "onnx"],
        "onnxruntime==1.27.0",
    ),
}


@pytest.mark.parametrize(("words", "said"), USAGE.values(), ids=USAGE.keys())
def test_usage(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["flash", str(make_card(tmp_path / "card")), "--board", BOARD, *words]) == 2
    assert said in capsys.readouterr().err
