"""Golden vectors, parts in folders, packing and signing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_build import Built, wherry

from wherry.bundle_view import look, trusting, verify
from wherry.keys import generate, load_signer
from wherry.pack import check_scores, pack, read_parts, scored, sign_bundle, write_parts
from wherry.project import Golden
from wherry.vectors import choose_vectors, raw_row
from wherry_contract.bundle import Parts
from wherry_contract.errors import ProbeError, SetupError, TrustError, WherryError
from wherry_contract.features import InputContract

CONTRACT = InputContract.from_dict(
    {
        "name": "test",
        "version": 1,
        "features": [
            {"name": "x"},
            {"name": "m", "missing": "allow"},
            {"name": "c", "dtype": "category", "categories": ["?", "b"], "unseen": "allow"},
        ],
    }
)


def _classes(rows: int) -> dict[str, Any]:
    clean = np.column_stack([np.linspace(0, 1, rows), np.zeros(rows), np.zeros(rows)])
    return {
        "clean": clean,
        "missing m": np.where([False, True, False], np.nan, clean[:50]),
        "unseen c": np.where([False, False, True], -1.0, clean[:50]),
    }


def test_vectors_frame_the_threshold_and_hold_every_class() -> None:
    chosen = choose_vectors(
        _classes(1001), lambda raw: raw[:, 0], CONTRACT, threshold=0.5, settings=Golden(32, 1e-3)
    )
    scores = np.array(chosen.scores)
    assert len(chosen.rows) == len(set(chosen.rows)) == 32
    assert np.abs(scores - 0.5).min() > 2e-3 - 1e-12
    assert ((scores > 0.5) & (scores < 0.51)).sum() >= 3
    assert ((scores < 0.5) & (scores > 0.49)).sum() >= 3
    assert (scores.min(), scores.max()) == (0, 1)
    assert any(row[1] is None for row in chosen.rows)
    assert any(row[2] == "??" for row in chosen.rows), "a name that the contract lists is taken"


def test_the_same_rows_give_the_same_vectors() -> None:
    settings, classes = Golden(16, 1e-6), _classes(200)
    made = [
        choose_vectors(classes, lambda raw: raw[:, 0], CONTRACT, threshold=0.5, settings=settings)
        for _ in range(2)
    ]
    assert made[0].to_bytes() == made[1].to_bytes()


def test_rows_all_on_the_threshold_give_none() -> None:
    with pytest.raises(SetupError) as caught:
        choose_vectors(
            {"clean": np.full((9, 3), 0.5)},
            lambda raw: raw[:, 0],
            CONTRACT,
            threshold=0.5,
            settings=Golden(8, 1e-6),
        )
    assert caught.value.code == "H10"


def test_a_scorer_that_depends_on_its_batch_is_found() -> None:
    with pytest.raises(ProbeError) as caught:
        choose_vectors(
            _classes(100),
            lambda raw: raw[:, 0] + (len(raw) == 1) * 1e-3,
            CONTRACT,
            threshold=2.0,
            settings=Golden(8, 1e-6),
        )
    assert caught.value.code == "P01"


def test_a_raw_row_goes_back_and_forth() -> None:
    row = np.array([0.1, np.nan, -1.0])
    named = dict(zip(CONTRACT.names, raw_row(row, CONTRACT), strict=True))
    np.testing.assert_array_equal(CONTRACT.matrix([named])[0], row)


def test_a_folder_of_parts_packs_to_the_same_bundle(built: Built, tmp_path: Path) -> None:
    layout = pack(read_parts(built.parts), tmp_path / "again.wherry")
    assert layout.digest == built.result.digest


def _edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        document = json.loads((folder / name).read_bytes())
        change(document)
        (folder / name).write_text(json.dumps(document))

    return edit


BAD = [
    pytest.param(lambda folder: (folder / "golden.json").unlink(), "H02", id="a part is missing"),
    pytest.param(lambda folder: (folder / "model.onnx").write_bytes(b""), "K04", id="empty model"),
    pytest.param(
        lambda folder: (folder / "model.onnx").write_bytes(b"\xff" * 99), "K04", id="no model"
    ),
    pytest.param(
        lambda folder: (folder / "wherry.json").write_bytes(b"{" * 99), "M02", id="nested manifest"
    ),
    pytest.param(
        lambda folder: (folder / "profile.json").write_bytes(b" " * (4 * 2**20 + 1)),
        "B02",
        id="large profile",
    ),
    pytest.param(
        _edit("wherry.json", lambda doc: doc["runtime"]["operators"].remove("Cast")),
        "M08",
        id="manifest hides an operator",
    ),
    pytest.param(
        _edit("wherry.json", lambda doc: doc["runtime"].update(ir=99)), "M08", id="another IR"
    ),
    pytest.param(
        _edit("wherry.json", lambda doc: doc["runtime"]["opsets"].update({"": 12})),
        "M08",
        id="another operator set",
    ),
    pytest.param(
        _edit("wherry.json", lambda doc: doc["output"].update(tensor="label")),
        "M08",
        id="another output",
    ),
    pytest.param(
        _edit("wherry.json", lambda doc: doc["runtime"]["operators"].append("Loop")),
        "M05",
        id="an operator outside the list",
    ),
    pytest.param(
        _edit("wherry.json", lambda doc: doc.update(schema="wherry/manifest/2")),
        "M03",
        id="a manifest from the future",
    ),
    pytest.param(
        _edit("golden.json", lambda doc: doc["scores"].__setitem__(0, 0.999)),
        "P01",
        id="vectors disagree",
    ),
    pytest.param(
        _edit("golden.json", lambda doc: doc["rows"][0].__setitem__(0, "x")),
        "C03",
        id="a vector does not fit",
    ),
    pytest.param(
        _edit("profile.json", lambda doc: doc["features"][0].update(name="other")),
        "M08",
        id="a profile of other features",
    ),
]


@pytest.mark.parametrize(("spoil", "code"), BAD)
def test_parts_that_do_not_belong_together(
    built: Built, tmp_path: Path, spoil: Callable[[Path], None], code: str
) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(built.parts, folder)
    spoil(folder)
    with pytest.raises(WherryError) as caught:
        read_parts(folder)
    assert caught.value.code == code


def test_a_signature_leaves_the_digest_as_it_is(built: Built, tmp_path: Path) -> None:
    path = tmp_path / "unsigned.wherry"
    layout = pack(read_parts(built.parts), path)
    assert look(path).signers == ()
    public = generate(tmp_path / "a.key")
    statement = sign_bundle(path, [load_signer(tmp_path / "a.key")], counter=7)
    assert statement.counter == 7
    view = look(path)
    assert view.digest == layout.digest
    assert verify(view, trusting([public], "till")).counter == 7


def test_a_second_signer_signs_the_same(built: Built, tmp_path: Path) -> None:
    path = tmp_path / "copy.wherry"
    shutil.copy(built.bundle, path)
    generate(tmp_path / "b.key")
    statement = sign_bundle(path, [load_signer(tmp_path / "b.key")])
    assert statement.counter == 3
    assert len(look(path).signers) == 2


@pytest.mark.parametrize(
    ("signed", "counter", "words"),
    [("yes", None, "has signed it already"), ("yes", 4, "something else"), ("", None, "nobody")],
    ids=["the same key", "another counter", "no counter"],
)
def test_signing_that_is_refused(
    built: Built, tmp_path: Path, signed: str, counter: int | None, words: str
) -> None:
    path = tmp_path / "copy.wherry"
    if signed:
        shutil.copy(built.bundle, path)
    else:
        pack(read_parts(built.parts), path)
    before = path.read_bytes()
    with pytest.raises(TrustError) as caught:
        sign_bundle(path, [load_signer(built.keys / "release.key")], counter=counter)
    assert words in caught.value.detail
    assert path.read_bytes() == before


def test_a_loaded_bundle_repeats_its_scores(built: Built) -> None:
    """But for the last bit: a batch goes through vector instructions, a single row does not."""
    assert check_scores(look(built.bundle).parts) < 1e-15


def _bad(parts: Parts) -> Parts:
    scores = tuple(score / 2 for score in parts.golden.scores)
    return replace(parts, golden=replace(parts.golden, scores=scores))


def test_the_pack_command(built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "till.wherry"
    key = built.keys / "release.key"
    done = wherry(capsys, "pack", built.parts, "--out", out, "--key", key, "--counter", 3)
    assert (done.code, done.out.strip()) == (0, built.result.digest)
    assert out.read_bytes() == built.bundle.read_bytes()
    assert wherry(capsys, "pack", built.parts, "--out", out, "--key", key).code == 2
    write_parts(_bad(read_parts(built.parts)), tmp_path / "bad")
    bad = wherry(capsys, "pack", tmp_path / "bad", "--out", tmp_path / "bad.wherry")
    assert (bad.code, "P01" in bad.err) == (1, True)
    assert not (tmp_path / "bad.wherry").exists()


def test_scored_takes_raw_rows(built: Built) -> None:
    parts = look(built.bundle).parts
    raw = parts.golden.matrix(parts.manifest.input)
    np.testing.assert_array_equal(scored(parts).scores(raw), parts.golden.scores)
