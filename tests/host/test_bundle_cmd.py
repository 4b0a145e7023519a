"""`wherry bundle`, `sign` and `doctor`, as a person at a terminal meets them."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from support import ROOT
from support_build import Built, wherry, write_project

from wherry.bundle_view import trusting
from wherry.doctor import FRAMEWORKS, LIBRARIES, examine
from wherry.keys import generate, read_public
from wherry_contract.extras import how_to_install
from wherry_convert.environments import ENVIRONMENTS, FOLDER_VARIABLE, MARK, folder_of

Capture = pytest.CaptureFixture[str]


def test_inspect_tells_what_a_person_wants_to_know(built: Built, capsys: Capture) -> None:
    done = wherry(capsys, "bundle", "inspect", built.bundle)
    assert done.code == 0
    for words in (
        "till 1.0.0, family till",
        built.result.digest,
        "onnxruntime >=1.27,<1.29",
        "TreeEnsembleRegressor",
        "flagged at",
        "amount > 220",
        "64 golden vectors",
        "as release 3",
        "model.onnx",
        "may be missing",
        "window     of 1,000 rows: ",
    ):
        assert words in done.out
    assert done.err == ""


def test_inspect_in_json(built: Built, capsys: Capture) -> None:
    answer = json.loads(wherry(capsys, "bundle", "inspect", built.bundle, "--json").out)
    assert answer["schema"] == "wherry/bundle-inspect/1"
    assert answer["digest"] == built.result.digest
    assert answer["counter"] == 3
    assert [item["name"] for item in answer["input"]["features"]] == ["amount", "risk", "mode"]
    assert [size["rows"] for size in answer["windows"]] == [1000, 10_000]
    assert all(0 < 5 * size["compact"] < size["json"] for size in answer["windows"])
    names = {"model.onnx", "wherry.json", "profile.json", "golden.json", "model-card.md"}
    assert {blob["name"] for blob in answer["blobs"]} == names


@pytest.mark.parametrize("probe", [[], ["--probe"]], ids=["signatures", "and vectors"])
def test_verify_trusts_a_key(built: Built, capsys: Capture, probe: list[str]) -> None:
    key = built.keys / "release.pub.json"
    done = wherry(capsys, "bundle", "verify", built.bundle, "--key", key, *probe)
    assert done.code == 0
    assert "trusted: till 1.0.0, release 3" in done.out
    assert ("golden vectors agree" in done.out) == bool(probe)


def test_verify_trusts_the_folder_or_a_devices_file(
    built: Built, tmp_path: Path, capsys: Capture
) -> None:
    assert wherry(capsys, "bundle", "verify", built.bundle, "--data", built.keys.parent).code == 0
    root = trusting([read_public(built.keys / "release.pub.json")], "till")
    (tmp_path / "trust.json").write_bytes(root.to_bytes())
    done = wherry(
        capsys, "bundle", "verify", built.bundle, "--trust", tmp_path / "trust.json", "--json"
    )
    answer = json.loads(done.out)
    assert (answer["trusted"], answer["counter"]) == (True, 3)


def test_verify_says_no(built: Built, tmp_path: Path, capsys: Capture) -> None:
    generate(tmp_path / "other.key")
    (tmp_path / "trust.json").write_bytes(trusting([], "another").to_bytes())
    rows = [
        (["--key", tmp_path / "other.pub.json"], "T02"),
        (["--trust", tmp_path / "trust.json"], "T06"),
        (["--data", tmp_path / "none"], "T10"),
    ]
    for arguments, code in rows:
        done = wherry(capsys, "bundle", "verify", built.bundle, *arguments)
        assert (done.code, f"error[{code}]" in done.err, done.out) == (1, True, "")


def test_verify_of_an_unsigned_bundle(built: Built, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "unsigned.wherry"
    assert wherry(capsys, "pack", built.parts, "--out", out).code == 0
    done = wherry(capsys, "bundle", "verify", out, "--data", built.keys.parent)
    assert (done.code, "nobody signed it" in done.err) == (1, True)
    key = built.keys / "release.key"
    signed = wherry(capsys, "sign", out, "--key", key, "--counter", 1)
    assert (signed.code, signed.out.strip()) == (0, built.result.digest)
    assert wherry(capsys, "bundle", "verify", out, "--data", built.keys.parent).code == 0
    assert wherry(capsys, "sign", out, "--key", key).code == 1


def _flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: _flip(data, data.index(b"TreeEnsemble")),
        lambda _data: b"",
        lambda data: data.replace(b"blobs/sha256", b"blobs/../256"),
    ],
    ids=["cut", "a bit flipped", "empty", "paths"],
)
@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_damaged_bundles(
    built: Built, tmp_path: Path, capsys: Capture, command: str, spoil: object
) -> None:
    assert callable(spoil)
    path = tmp_path / "bad.wherry"
    path.write_bytes(spoil(built.bundle.read_bytes()))
    done = wherry(capsys, "bundle", command, path)
    assert done.code == 3
    assert re.search(r"error\[B\d\d\]", done.err)
    assert "Traceback" not in done.err
    assert "Traceback" in wherry(capsys, "-vv", "bundle", command, path).err


def test_a_bundle_does_not_differ_from_itself(built: Built, capsys: Capture) -> None:
    done = wherry(capsys, "bundle", "diff", built.bundle, built.bundle, "--json")
    assert done.code == 0
    assert json.loads(done.out) == {"schema": "wherry/bundle-diff/1", "same": True, "changes": []}


@pytest.mark.parametrize(
    ("edit", "changed"),
    [
        (([], "[golden]\nrows = 16\n"), {"golden vectors"}),
        (([("= 0.02", "= 0.1")], ""), {"threshold", "reference", "golden vectors"}),
        (([("maximum = 1000.0", "maximum = 300.0")], ""), {"feature amount", "edges of amount"}),
        (([("value = 220.0", "value = 300.0")], ""), {"fallback"}),
        (([('"1.0.0"', '"1.1.0"')], ""), {"version", "document model-card.md"}),
        (([], "[soak]\nrows = 7\n"), {"soak rows"}),
        (([], "[board]\nmemory_mib = 9\n"), {"board memory_mib"}),
        (([], '[drift]\npairs = [["amount", "mode"]]\nreaction = {}\n'), {"pairs", "reaction"}),
    ],
    ids=["vectors", "threshold", "edges", "rule", "version", "soak", "board", "drift"],
)
def test_diff_names_what_differs(
    built: Built,
    tmp_path: Path,
    capsys: Capture,
    edit: tuple[list[tuple[str, str]], str],
    changed: set[str],
) -> None:
    other = tmp_path / "other.wherry"
    project = write_project(built.shop, swaps=edit[0], more=edit[1])
    key = built.keys / "release.key"
    assert wherry(capsys, "build", project, "--out", other, "--key", key).code == 0
    done = wherry(capsys, "bundle", "diff", built.bundle, other, "--json")
    assert done.code == 1
    found = {change["what"] for change in json.loads(done.out)["changes"]}
    assert changed <= found
    assert "digest" in found
    assert "model" not in found
    for_a_person = wherry(capsys, "bundle", "diff", built.bundle, other)
    assert for_a_person.code == 1
    assert min(changed) in for_a_person.out


def test_signatures_alone_are_a_difference_too(
    built: Built, tmp_path: Path, capsys: Capture
) -> None:
    other = tmp_path / "other.wherry"
    shutil.copy(built.bundle, other)
    generate(tmp_path / "b.key")
    assert wherry(capsys, "sign", other, "--key", tmp_path / "b.key").code == 0
    done = wherry(capsys, "bundle", "diff", built.bundle, other, "--json")
    assert [change["what"] for change in json.loads(done.out)["changes"]] == ["signed by"]


def test_doctor_finds_all_that_this_environment_has(capsys: Capture) -> None:
    done = wherry(capsys, "doctor", "--json")
    answer = json.loads(done.out)
    names = {finding["what"] for finding in answer["findings"]}
    assert {"python", "onnxruntime", "protobuf", "skl2onnx", "broker", "disk"} <= names
    unwell = [finding for finding in answer["findings"] if not finding["fine"]]
    assert answer["fine"] is (not unwell)
    assert done.code == (1 if unwell else 0)
    assert all(finding["cure"] for finding in unwell)


def test_doctor_knows_the_ranges_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = dict(project["optional-dependencies"])
    extras.pop("agent-tflite")  # of another machine: its numpy is an older one
    every = [*project["dependencies"], *(item for extra in extras.values() for item in extra)]
    wanted = dict(re.fullmatch(r"([\w-]+)(?:\[\w+\])?(.*)", item).groups() for item in every)  # type: ignore[union-attr]
    for name, span, _, _ in (*LIBRARIES, *FRAMEWORKS):
        if name in wanted:
            assert span == wanted[name], name


def test_doctor_names_what_is_missing(tmp_path: Path) -> None:
    rows = [("no-such-thing", ">=1", "nothing", "host"), ("numpy", ">=99", "rows", "host")]
    found = {finding.what: finding for finding in examine(tmp_path, rows)}
    assert found["no-such-thing"].cure == how_to_install("host")
    assert found["numpy"].cure == "pip install 'numpy>=99'"
    assert not found["numpy"].fine


def test_doctor_lists_environments_of_heavy_frameworks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    folder_of("torch").mkdir()
    (folder_of("torch") / MARK).write_text("torch==2.13.0+cpu\nnumpy==2.4.6\nonnx==1.23.2\n")
    found = {finding.what: finding for finding in examine(tmp_path, ())}
    assert found["torch"].found == "torch==2.13.0+cpu, numpy==2.4.6"
    assert found["tensorflow"].found == "absent"
    assert "wherry doctor --install tensorflow" in found["tensorflow"].cure
    assert all(found[name].fine for name in ENVIRONMENTS)
