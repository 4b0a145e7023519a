"""The wheel with nothing but `[agent]`, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import ROOT
from support_agent import running_depot
from support_tuf import TufRepository

ABSENT = {
    "click",
    "cryptography",
    "jinja2",
    "onnx",
    "pyarrow",
    "sklearn",
    "skl2onnx",
    "sqlalchemy",
    "starlette",
    "uvicorn",
}
MOST_MIB = 200  # measured: 134 MiB with onnxruntime 1.28 and numpy 2.4 on x86-64


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel, `[agent]`, and no pip."""
    folder = tmp_path_factory.mktemp("alone")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels = folder / "wheels"
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)], check=True)
    (wheel,) = wheels.glob("wherry-*.whl")
    home = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", f"{wheel}[agent]"], check=True)
    return home


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # an empty folder and no PYTHONPATH: nothing of the source tree is in reach
    return subprocess.run(
        arguments,
        cwd=home,
        env={"PATH": str(home / "bin")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
def test_the_agent_stands_alone(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(alone, "wherry-agent", "self-test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout

    (packages,) = alone.glob("lib/python3*/site-packages")
    here = {path.name.partition(".")[0] for path in packages.iterdir()}
    assert {"wherry_agent", "wherry_contract", "onnxruntime", "numpy", "h11", "paho"} <= here
    assert not here & ABSENT

    sizes = {
        path.name: sum(item.stat().st_size for item in path.rglob("*") if item.is_file()) / 2**20
        for path in packages.iterdir()
    }
    total = sum(sizes.values())
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    with capsys.disabled():
        parts = ", ".join(f"{name} {size:.0f}" for name, size in largest)
        sys.stdout.write(f"\n[agent] takes {total:.0f} MiB installed: {parts}\n")
    assert total < MOST_MIB


@pytest.mark.slow
def test_the_hosts_command_says_what_is_missing(alone: Path) -> None:
    done = run(alone, "wherry", "doctor")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "wherry[host]" in done.stderr


@pytest.mark.slow
def test_it_follows_a_repository_in_plain_python(alone: Path, tmp_path: Path) -> None:
    """Without compiled cryptography: nothing but tuf, securesystemslib and urllib3 came with it."""
    with running_depot(tmp_path / "depot") as depot:
        repository = TufRepository(tmp_path / "depot", now=time.time())
        repository.publish()
        (tmp_path / "root.json").write_bytes(repository.root_file())
        client = ("wherry-tuf-client", "--metadata-dir", str(tmp_path / "d"))
        assert run(alone, *client, "init", str(tmp_path / "root.json")).returncode == 0
        refresh = (*client, "--metadata-url", f"{depot.url}/tuf", "refresh")
        done = run(alone, *refresh)
        assert done.returncode == 0, done.stderr
        repository.roles["timestamp"] = ("stranger",)
        repository.sign_timestamp()
        done = run(alone, *refresh)
        assert (done.returncode, "T13" in done.stderr) == (1, True)


@pytest.mark.parametrize("module", ["wherry_agent.trust.tuf_trust", "wherry_agent.trust.seam"])
def test_what_judges_orders_does_without_numpy(module: str) -> None:
    """Its process is started for each look at the metadata: numpy is a third of its memory."""
    program = f"import sys, {module}\nprint('numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"
