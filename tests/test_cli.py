"""The command line as a whole: its menu, its start-up, its exit codes, its reference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from support import ROOT

from wherry.cli import COMMANDS, SECTIONS, menu, run
from wherry_contract.extras import how_to_install


def _every(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    if path:
        yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _every(below, (*path, name))


EVERY = dict(_every(menu))
READS = {
    "build", "bundle inspect", "bundle diff", "bundle verify", "check", "device answers",
    "device ask", "device list", "device show", "doctor", "key list", "monitor", "rollout list", "rollout status",
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_the_menu_says_what_the_command_says(name: str) -> None:
    text = (EVERY[name].help or "").strip().partition("\n")[0].rstrip(".")
    assert text == COMMANDS[name].summary
    assert len(text) <= 60


@pytest.mark.parametrize("name", EVERY)
def test_every_command_has_help_and_an_example(name: str) -> None:
    command = EVERY[name]
    assert command.help
    if not isinstance(command, click.Group):
        assert f"wherry {name}" in command.help + (command.epilog or ""), "no example"
        nameless = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
        assert not nameless, "options without help"


@pytest.mark.parametrize("name", sorted(READS))
def test_reads_can_answer_in_json(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in EVERY[name].params)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from wherry.cli import run; code = run(['--help'])\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'sqlalchemy', 'pyarrow', 'starlette'}\n"
        "sys.exit(code or ','.join(sorted(heavy & sys.modules.keys())) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for title in SECTIONS:
        assert title in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--help"], 0, ""),
        (["nonsense"], 2, "No such command"),
        (["build"], 2, "Missing argument"),
        (["build", "/nowhere/project.toml"], 3, "H02"),
        (["bundle", "inspect", "/nowhere/a.wherry"], 3, "H02"),
        (["rollout", "list", "--server", "http://127.0.0.1:9", "--token-file", __file__], 3, "R05"),
        (["rollout", "list", "--server", "http://127.0.0.1:9", "--token-file", "/no"], 3, "H02"),
    ],
)
def test_exit_codes(
    arguments: list[str], code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    said = capsys.readouterr()
    assert word in said.err
    assert "Traceback" not in said.err
    if code == 3:
        assert "next:" in said.err


def test_very_verbose_shows_where_an_error_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-vv", "build", "/nowhere/project.toml"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "wherry", "--help"]
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert process.communicate()[1] == b""
    assert process.returncode == 0


def test_without_click_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None\nfrom wherry.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert f"next: {how_to_install('host')}\n" in done.stderr


def test_the_reference_is_what_the_commands_say() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "cli_reference.py"],
        capture_output=True, text=True, check=True, env=os.environ | {"NO_COLOR": "1"},
    )  # fmt: skip
    assert done.stdout == (ROOT / "docs" / "cli.md").read_text()


def test_doctor_answers_with_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    run(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out)["schema"] == "wherry/doctor/1"
