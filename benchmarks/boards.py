"""What the example's models cost on boards: instructions of a row, and memory.

    python benchmarks/boards.py            # instructions of a row
    python benchmarks/boards.py --memory   # the agent beside a bare interpreter, and memory floors

The demo's trees, and its net in float32 and in int8, each for onnxruntime and for TFLite. Counts are
the same in every run and are no times. Memory is that of a whole emulated machine: a real kernel,
the real agent, 300 payments over HTTP; boots with less and less until it does not run or reads the
same pages again. It prints the tables of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from wherry.boards.count import count
from wherry.boards.machine import Job, prepare, smallest
from wherry.boards.overlay import overlay, pins_of
from wherry.boards.recipe import recipe_of
from wherry.boards.root import create, mirror
from wherry.bundle_view import unpack
from wherry.profiles import FOLDER, load_board

_EXAMPLE: Final = Path(__file__).resolve().parents[1] / "examples" / "fraud_terminals"
MODELS: Final = ("trees", "net, float32", "net, int8")
# board and runtime; the first version that the board's profile names
COLUMNS: Final = (
    ("pi3", "onnxruntime"),
    ("pi4", "onnxruntime"),
    ("pi5", "onnxruntime"),
    ("pi3", "tflite-runtime"),
    ("pos-armv7", "tflite-runtime"),
)
_MACHINES: Final = (("pi3", "onnxruntime"), ("pos-armv7", "tflite-runtime"))
_SIZES_MIB: Final = (256, 192, 160, 128, 112, 96, 80, 64, 48)


def bundles(folder: Path, models: Sequence[str]) -> dict[tuple[str, str], Path]:
    """Some of the example's models for both runtimes, built as a user would."""
    example = folder / "example"
    shutil.copytree(_EXAMPLE, example)
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, example / "train.py"], env=settings, check=True, stdout=subprocess.DEVNULL
    )
    net = (example / "mlp.toml").read_text()
    plain = net.replace('[quantize]\nmethod = "int8"\n', "")
    trees = (example / "project.toml").read_text()
    made = {}
    texts = dict(zip(MODELS, (trees, plain, net), strict=True))
    for model in models:
        for runtime in ("onnxruntime", "tflite"):
            name = f"{MODELS.index(model)}-{runtime}"
            (example / f"{name}.toml").write_text(
                texts[model] + f'\n[target]\nruntime = "{runtime}"\n'
            )
            made[model, runtime] = example / f"{name}.wherry"
            _say(f"building {model} for {runtime}")
            command = [sys.executable, "-m", "wherry", "build", str(example / f"{name}.toml")]
            more = ["--unsigned", "--out", str(made[model, runtime])]
            subprocess.run([*command, *more], env=settings, check=True, capture_output=True)
    return made


def instructions(made: dict[tuple[str, str], Path]) -> None:
    """Print instructions of a row, and how many times the float net's."""
    print(f"| instructions a row | {' | '.join(MODELS)} | int8 / float32 | trees / float32 |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, wanted in COLUMNS:
        board = load_board(name, FOLDER)
        recipe = recipe_of(board, mirror())
        place = create(recipe, _say).place
        pin = next(pin for pin in pins_of(board) if pin.name == wanted)
        runtime = (str(pin), overlay(pin, recipe, _say))
        found = []
        for model in MODELS:
            _say(f"counting {model} on {name} under {pin}")
            _, layout = unpack(made[model, _kind(wanted)])
            found.append(count(model, layout, place, runtime).instructions)
        trees, plain, quantized = found
        cells = " | ".join(f"{value:,}" for value in found)
        print(
            f"| {name} ({place.cpu}), {pin} | {cells} | {quantized / plain:.2f} | {trees / plain:.2f} |"
        )


def memory(made: dict[tuple[str, str], Path]) -> None:
    """Print the agent's memory beside a bare interpreter's, and the smallest that is enough."""
    print("| the example's trees | bare, MiB | agent, MiB | ratio | runs with | not with |")
    print("|---|---:|---:|---:|---:|---|")
    for name, wanted in _MACHINES:
        board = load_board(name, FOLDER)
        recipe = recipe_of(board, mirror())
        place = create(recipe, _say).place
        pin = next(pin for pin in pins_of(board) if pin.name == wanted)
        parts, layout = unpack(made["trees", _kind(wanted)])
        job = Job(parts, layout, pin.name, overlay(pin, recipe, _say))
        with tempfile.TemporaryDirectory(prefix="wherry-machine-") as where:
            machine = prepare(Path(where), job, place, recipe, _say)
            looks = smallest(machine, _say, _SIZES_MIB)
        enough = [look for look in looks if look.verdict == "runs"]
        bare, agent = (enough[0].report[key] for key in ("bare_mib", "resident_mib"))
        last = looks[-1]
        refused = f"{last.mib} MiB: {last.verdict}" if last.verdict != "runs" else ""
        print(
            f"| {name}, {recipe.architecture}, {pin} | {bare} | {agent} | {agent / bare:.2f} "
            f"| {enough[-1].mib} MiB | {refused} |"
        )


def _kind(runtime: str) -> str:
    return "onnxruntime" if runtime == "onnxruntime" else "tflite"


def _say(words: str) -> None:
    print(f"  {words}", file=sys.stderr, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--memory", action="store_true", help="memory instead of instructions")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wherry-boards-") as folder:
        made = bundles(Path(folder), MODELS[:1] if arguments.memory else MODELS)
        (memory if arguments.memory else instructions)(made)


if __name__ == "__main__":
    main()
