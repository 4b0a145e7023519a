"""A whole emulated machine: the smallest memory with which the agent runs a bundle.

QEMU's user mode cannot tell: its own memory is mixed with the program's, and limits inside
are ignored. So a real kernel boots with so many MiB, the agent installs the bundle and
scores, and the kernel's own counters say whether it had to read the same pages again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from wherry.keys import generate, load_signer, public_path, read_public, sign_envelope
from wherry_contract.bundle import Layout, Parts
from wherry_contract.errors import SetupError
from wherry_contract.signature import BundleStatement, FamilyTrust, TrustRoot

from .agent import lay_out_agent
from .archive import Entry, pack
from .emulator import Place
from .guest_memory import MARK, PORT
from .recipe import Recipe
from .root import Wanted, alone, fetch_packages, folder, run_tool

INSTALL: Final = "sudo apt-get install --no-install-recommends qemu-system-arm e2fsprogs"
SIZES_MIB: Final = (512, 384, 256, 192, 160, 128, 112, 96, 80, 64, 48)
HEADS: Final = ("memory", "left for programs", "agent resident", "read again", "verdict")
BOOT_SECONDS: Final = 420.0
_THRASH_PAGES: Final = 2000  # 8 MiB read again for 300 rows: it lives off the card
_KERNEL: Final = ("linux-image-cloud-arm64", "busybox-static")
_DRIVERS: Final = ("virtio", "virtio_ring", "virtio_mmio", "virtio_blk")
_SLACK: Final = 1.3  # of a file system over what it holds
_SHOWN: Final = 400
_INIT: Final = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
{insmod}
/bin/busybox mount -t ext4 -o noatime /dev/vda /new
"""
_START: Final = """\
/bin/busybox mount -t proc proc /new/proc
/bin/busybox mount -t sysfs sys /new/sys
/bin/busybox mount -t devtmpfs dev /new/dev
/bin/busybox mount -t tmpfs tmp /new/tmp
/bin/busybox ip link set lo up
cd /new
PATH=/usr/bin PYTHONPATH={path} HOME=/tmp ORT_DISABLE_TELEMETRY=1 \\
  /bin/busybox chroot /new {python} /opt/wherry/job/guest_memory.py
/bin/busybox poweroff -f
"""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Look:
    """One boot.

    Attributes:
        mib: of the machine.
        report: what the job said; empty if it said nothing.
        failed: why, if it did not end well.
    """

    mib: int
    report: dict[str, Any]
    failed: str = ""

    @property
    def verdict(self) -> str:
        """Whether the agent can live with it."""
        if self.failed:
            return f"does not run: {self.failed}"
        return "thrashes" if self.report["read_again"] > _THRASH_PAGES else "runs"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True)
class Job:
    """What the machine is to run.

    Attributes:
        parts: of the bundle.
        layout: the same as blobs.
        runtime: the distribution's name.
        modules: the folder that holds it.
    """

    parts: Parts
    layout: Layout
    runtime: str
    modules: Path


@dataclass(frozen=True)
class Machine:
    """What is booted.

    Attributes:
        kernel: its image.
        initial: the first file system.
        disk: the second.
        cpu: QEMU's name.
    """

    kernel: Path
    initial: Path
    disk: Path
    cpu: str


def _programs() -> dict[str, str]:
    places = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    wanted = ("qemu-system-aarch64", "mke2fs")
    found = {name: shutil.which(name, path=places) for name in wanted}
    missing = [name for name, place in found.items() if not place]
    if missing:
        raise SetupError("H14", f"missing: {', '.join(missing)}", cure=f"run: {INSTALL}")
    return {name: place for name, place in found.items() if place}


def kernel(recipe: Recipe, progress: Progress) -> Path:
    """A folder with a kernel, the drivers of an emulated machine and busybox.

    Raises:
        SetupError: H14 or H15.
        OSError: no room or no right.
    """
    target = folder() / f"kernel-{recipe.emulation.suite}"
    with alone(folder() / "lock", progress):
        if not target.exists():
            half = target.with_name(f"{target.name}.new")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(parents=True)
            wanted = Wanted("arm64", recipe.emulation.suite, recipe.mirror, _KERNEL)
            fetch_packages(wanted, half / "apt", half / "root", progress)
            shutil.copy(next((half / "root/boot").glob("vmlinuz-*")), half / "vmlinuz")
            shutil.copy(half / "root/bin/busybox", half / "busybox")
            for name in _DRIVERS:
                shutil.copy(next((half / "root").glob(f"**/{name}.ko")), half / f"{name}.ko")
            shutil.rmtree(half / "apt")
            shutil.rmtree(half / "root")
            half.rename(target)
    return target


def prepare(where: Path, job: Job, place: Place, recipe: Recipe, progress: Progress) -> Machine:
    """Make the machine's files.

    Args:
        where: a folder for them.
        job: what it is to run.
        place: the board.
        recipe: of the board.
        progress: is told each step in words.

    Raises:
        SetupError: H14 or H15.
        OSError: no room or no right.
    """
    _programs()  # or nothing is begun
    tree = where / "tree"
    shutil.copytree(place.base / "root", tree, symlinks=True, copy_function=os.link)
    for name in ("proc", "sys", "dev", "tmp", "var/lib/wherry"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    inside = tree / "opt/wherry"
    shutil.copytree(place.site, inside / "site", copy_function=os.link)
    shutil.copytree(job.modules, inside / "runtime", copy_function=os.link)
    lay_out_agent(inside / "agent")
    _lay_out_job(inside / "job", job)
    path = ":".join(f"/opt/wherry/{name}" for name in ("runtime", "agent", "site"))
    start = _START.format(path=path, python=f"/usr/bin/python{place.version}")
    return build(where, start, place, recipe, progress)


def build(where: Path, start: str, place: Place, recipe: Recipe, progress: Progress) -> Machine:
    """Make a machine of a tree of files.

    Args:
        where: the folder whose ``tree`` is what the machine's disk holds; it is used up.
        start: lines of shell for busybox, when that disk is mounted on /new.
        place: the board.
        recipe: of the board.
        progress: is told each step in words.

    Raises:
        SetupError: H14 or H15.
        OSError: no room or no right.
    """
    programs, parts, tree = _programs(), kernel(recipe, progress), where / "tree"
    disk = where / "disk.img"
    mib = int(sum(p.lstat().st_size for p in tree.rglob("*")) / 2**20 * _SLACK) + 64
    progress(f"a disk of {mib} MiB")
    options = ["-q", "-t", "ext4", "-O", "^has_journal", "-d", str(tree), str(disk), f"{mib}M"]
    run_tool([programs["mke2fs"], *options])
    shutil.rmtree(tree)
    drivers = "\n".join(f"/bin/busybox insmod /{name}.ko" for name in _DRIVERS)
    text = _INIT.format(insmod=drivers) + start
    entries = [Entry(name) for name in ("bin", "dev", "new", "proc")]
    entries += [Entry("bin/busybox", (parts / "busybox").read_bytes(), executable=True)]
    entries += [Entry(f"{name}.ko", (parts / f"{name}.ko").read_bytes()) for name in _DRIVERS]
    entries += [Entry("init", text.encode(), executable=True)]
    initial = where / "initial.gz"
    initial.write_bytes(pack(entries))
    # the kernel is of 64 bits and runs 32-bit programs, too
    cpu = place.cpu if recipe.machine == "aarch64" else "cortex-a53"
    return Machine(parts / "vmlinuz", initial, disk, cpu)


def _lay_out_job(folder: Path, job: Job) -> None:
    """A device's folder, with a key of this hour that has signed the bundle."""
    manifest, layout = job.parts.manifest, job.layout
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("guest_memory.py"), folder)
    with tempfile.TemporaryDirectory() as keys:
        path = Path(keys, "hour.key")
        generate(path)
        signer, public = load_signer(path), read_public(public_path(path))
    statement = BundleStatement(
        manifest.family, manifest.name, manifest.version, layout.digest, len(layout.manifest), 1
    )
    signed = sign_envelope(statement.to_bytes(), BundleStatement.PAYLOAD_TYPE, [signer])
    (folder / "bundle.wherry").write_bytes(layout.to_tar(signed))
    trust = TrustRoot({public.keyid: public}, {manifest.family: FamilyTrust((public.keyid,))}, ())
    (folder / "trust.json").write_bytes(trust.to_bytes())
    lines = [
        'device = "board"', 'fleet = "bench"', f'family = "{manifest.family}"',
        'state_dir = "/var/lib/wherry"', "[serving]", f'listen = "127.0.0.1:{PORT}"',
        "[limits]", "probe_seconds = 300",  # emulated time is not the board's
    ]  # fmt: skip
    (folder / "agent.toml").write_text("\n".join(lines) + "\n")
    names, golden = job.parts.golden.features, job.parts.golden.rows
    module = {"tflite-runtime": "tflite_runtime.interpreter", "ai-edge-litert": "ai_edge_litert"}
    document = {
        "model": manifest.name,
        "rows": [dict(zip(names, row, strict=True)) for row in golden],
        "modules": ["numpy", "ssl", module.get(job.runtime, job.runtime), "paho.mqtt.client"],
    }
    (folder / "job.json").write_text(json.dumps(document))


def boot(machine: Machine, mib: int, seconds: float = BOOT_SECONDS) -> Look:
    """Boot with so much memory and wait for the report, for so many seconds."""
    command = [
        _programs()["qemu-system-aarch64"], "-M", "virt", "-cpu", machine.cpu, "-m", str(mib),
        "-smp", "1", "-nographic", "-no-reboot", "-kernel", str(machine.kernel),
        "-initrd", str(machine.initial), "-append", "console=ttyAMA0 quiet panic=-1",
        "-drive", f"file={machine.disk},format=raw,if=none,id=d,snapshot=on",
        "-device", "virtio-blk-device,drive=d", "-net", "none",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Look(mib, {}, f"no end in {seconds:.0f} s")
    return read_report(mib, done.stdout)


def read_report(mib: int, console: str) -> Look:
    """What a console says of a boot. Pure."""
    line = next((x for x in console.splitlines() if x.startswith(MARK)), "")
    if not line:
        killed = "Out of memory" in console or "oom-kill" in console
        last = " ".join(console.split())[-_SHOWN:]
        return Look(mib, {}, "out of memory" if killed else f"no report: {last}")
    report = json.loads(line.removeprefix(MARK))
    return Look(mib, {} if "failed" in report else report, str(report.get("failed", "")))


def smallest(machine: Machine, progress: Progress, sizes: Sequence[int] = SIZES_MIB) -> list[Look]:
    """Boot with less and less until the agent does not run or thrashes."""
    found: list[Look] = []
    for mib in sizes:
        progress(f"booting with {mib} MiB")
        found.append(boot(machine, mib))
        if found[-1].verdict != "runs":
            break
    return found


def rows(looks: Sequence[Look]) -> list[Sequence[object]]:
    """Rows of a table under `HEADS`."""
    return [
        (
            f"{item.mib} MiB",
            f"{item.report['total_mib']:.0f} MiB" if item.report else "",
            f"{item.report['resident_mib']:.0f} MiB" if item.report else "",
            f"{item.report['read_again']:,} pages" if item.report else "",
            item.verdict,
        )
        for item in looks
    ]
