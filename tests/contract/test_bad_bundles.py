"""Bundles that were truncated, damaged, packed again or made to hurt: each gets its code."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import resource
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import EMULATED
from support_contract import entries, golden_bundle, golden_parts, opened, retar, vector

from wherry_contract import oci, tar
from wherry_contract.bundle import LIMIT_BYTES, assemble, open_bundle
from wherry_contract.errors import TrustError, WherryError
from wherry_contract.signature import TrustRoot
from wherry_contract.wire import canonical, sha256_digest

Entries = list[tuple[tarfile.TarInfo, bytes]]


def refusal(data: bytes) -> str:
    """The code that a whole reading ends with; "" if it ends well."""
    try:
        opened(data).parts()
    except WherryError as error:
        return error.code if len(error.render()) < 1000 else "too long an error"
    return ""


def add(name: str, content: bytes = b"", **attributes: Any) -> Callable[[Entries], None]:
    """Put one more entry at the end."""

    def change(found: Entries) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for attribute, value in attributes.items():
            setattr(info, attribute, value)
        found.append((info, content))

    return change


def rename(old: str, new: str) -> Callable[[Entries], None]:
    def change(found: Entries) -> None:
        for info, _ in found:
            if info.name == old:
                info.name = new

    return change


def drop(name: str) -> Callable[[Entries], None]:
    def change(found: Entries) -> None:
        found[:] = [entry for entry in found if not entry[0].name.startswith(name)]

    return change


def put(name: str, content: bytes) -> Callable[[Entries], None]:
    def change(found: Entries) -> None:
        found[:] = [(info, content if info.name == name else data) for info, data in found]

    return change


def blob_name(file: str) -> str:
    return oci.blob_path(opened(golden_bundle()).oci.layer(file).digest)


def index(**change: Any) -> bytes:
    found = json.loads({info.name: data for info, data in entries(golden_bundle())}["index.json"])
    return json.dumps(found | change).encode()


def with_manifest(change: Callable[[dict[str, Any]], None], *blobs: bytes) -> bytes:
    """The golden bundle with another OCI manifest, and an index that names it rightly."""
    found = opened(golden_bundle())
    document = json.loads(found.manifest)
    change(document)
    manifest = canonical(document)
    kept = {oci.blob_path(item.digest) for item in found.oci.blobs}
    files = [
        (info.name, data)
        for info, data in entries(golden_bundle())
        if info.name in kept or info.name == "oci-layout"
    ]
    files += [("index.json", oci.write_index(manifest, "1.0.0"))]
    files += [(oci.blob_path(sha256_digest(data)), data) for data in (manifest, *blobs)]
    return tar.write(files)


def with_file(name: str, content: bytes) -> bytes:
    """The golden bundle with one file replaced and every digest put right, unsigned."""
    found = opened(golden_bundle()).layout()
    old = opened(golden_bundle()).oci.layer(name)
    document = json.loads(found.manifest)
    for layer in document["layers"]:
        if layer["digest"] == old.digest:
            layer |= {"digest": sha256_digest(content), "size": len(content)}
    manifest = canonical(document)
    blobs = {digest: data for digest, data in found.blobs.items() if digest != old.digest}
    every = [manifest, content, *blobs.values()]
    files = [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')]
    files += [("index.json", oci.write_index(manifest, "1.0.0"))]
    files += [(oci.blob_path(sha256_digest(data)), data) for data in every]
    return tar.write(files)


def layer(document: dict[str, Any], place: int = 0) -> dict[str, Any]:
    return document["layers"][place]  # type: ignore[no-any-return]


def renamed_layer(name: str, place: int = -1) -> bytes:
    return with_manifest(lambda m: layer(m, place).update(annotations={oci.FILEPATH: name}))


def from_the_future(name: str) -> bytes:
    files = {
        "wherry.json": golden_parts().manifest.to_bytes(),
        "profile.json": golden_parts().profile.to_bytes(),
        "golden.json": golden_parts().golden.to_bytes(),
    }
    return with_file(name, files[name].replace(b'/1"', b'/2"', 1))


def foreign_operator() -> bytes:
    document = json.loads(golden_parts().manifest.to_bytes())
    document["runtime"]["operators"].append("com.evil:Shell")
    return with_file("wherry.json", canonical(document))


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("index.json", bytes(10_000_000))
    return stream.getvalue()


def huge_size(octal: bytes) -> bytes:
    """The first entry says that it has another size, and its checksum agrees."""
    data = bytearray(golden_bundle())
    data[124:136] = octal
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def sparse() -> bytes:
    return retar(add("blobs/sha256/" + "a" * 64, type=tarfile.GNUTYPE_SPARSE))


def pax(headers: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in entries(golden_bundle()):
            info.pax_headers = headers
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def pax_record(record: bytes) -> bytes:
    """An extended header with a record of our own wording before the first entry."""
    head = tarfile.TarInfo("head")
    head.type, head.size = tarfile.XHDTYPE, len(record)
    block = head.tobuf(tarfile.USTAR_FORMAT)
    return block + record.ljust(512, b"\0") + golden_bundle()


def many(count: int) -> Callable[[Entries], None]:
    def change(found: Entries) -> None:
        for place in range(count):
            add(f"blobs/sha256/{place:064x}")(found)

    return change


MODEL = blob_name("model.onnx")
LINK = "blobs/sha256/" + "0" * 64

ROWS: list[tuple[str, str, Callable[[], bytes]]] = [
    # not a bundle at all
    ("empty", "B03", lambda: b""),
    ("text", "B03", lambda: b"hello" * 1000),
    ("zeros", "B03", lambda: bytes(10_240)),
    ("gzip of a bundle", "B03", lambda: gzip.compress(golden_bundle())),
    ("bzip2 of a bundle", "B03", lambda: bz2.compress(golden_bundle() * 9)),
    ("zip bomb", "B03", zipped),
    ("a tar of something else", "B05", lambda: tar.write([("readme", b"x")])),
    ("no index", "B03", lambda: retar(drop("index.json"))),
    ("no oci-layout", "B03", lambda: retar(drop("oci-layout"))),
    ("another layout version", "B09", lambda: retar(put("oci-layout", b'{"imageLayoutVersion":"2.0.0"}'))),
    # sizes
    ("a size of 8 GiB", "B01", lambda: huge_size(b"77777777777\0")),
    ("a size in base 256", "B03", lambda: huge_size(b"\x80" + b"\xff" * 11)),
    ("a negative size", "B03", lambda: huge_size(b"-0000000001\0")),
    ("no size", "B03", lambda: huge_size(b"\0" * 12)),
    ("a thousand entries", "B02", lambda: retar(many(1000))),
    ("a huge index", "B02", lambda: retar(put("index.json", b" " * 70_000))),
    ("a huge oci-layout", "B02", lambda: retar(put("oci-layout", b" " * 70_000))),
    ("a huge manifest", "B02", lambda: with_manifest(lambda m: m.update(x="y" * 70_000))),
    ("a deep index", "B02", lambda: retar(put("index.json", b"[" * 60_000))),
    ("a deep manifest", "B02", lambda: with_manifest(lambda m: m.update(x=json.loads("[" * 60 + "]" * 60)))),
    ("a deep wherry.json", "M02", lambda: with_file("wherry.json", b'{"a":' * 1000 + b"1" + b"}" * 1000)),
    ("a huge wherry.json", "B02", lambda: with_file("wherry.json", b" " * (4 * 2**20 + 1))),
    ("a model said to be huge", "B02", lambda: with_manifest(lambda m: layer(m).update(size=2**40))),
    ("layers without end", "B09", lambda: with_manifest(lambda m: m.update(layers=m["layers"] * 20))),
    # paths
    ("one more file", "B05", lambda: retar(add("run.sh", b"rm -rf /"))),
    ("a path upwards", "B05", lambda: retar(add("../../etc/cron.d/x", b"x"))),
    ("a path upwards within", "B05", lambda: retar(add("blobs/sha256/../../../x", b"x"))),
    ("an absolute path", "B05", lambda: retar(add("/etc/passwd", b"x"))),
    ("a path that begins with a dot", "B05", lambda: retar(rename("index.json", "./index.json"))),
    ("a folder upwards", "B05", lambda: retar(add("../x", type=tarfile.DIRTYPE))),
    ("a folder of its own", "B05", lambda: retar(add("scripts", type=tarfile.DIRTYPE))),
    ("another digest's folder", "B05", lambda: retar(add("blobs/sha512/" + "a" * 64, b"x"))),
    ("capital letters", "B05", lambda: retar(add("blobs/sha256/" + "A" * 64, b"x"))),
    ("a name that is not ASCII", "B05", lambda: retar(add("índex.json", b"x"))),
    ("a newline behind a name", "B05", lambda: retar(add("index.json\n", b"x"))),
    # kinds of entries
    ("a symbolic link", "B06", lambda: retar(add(LINK, type=tarfile.SYMTYPE, linkname="/etc/passwd"))),
    ("a hard link", "B06", lambda: retar(add(LINK, type=tarfile.LNKTYPE, linkname=MODEL))),
    ("a character device", "B06", lambda: retar(add(LINK, type=tarfile.CHRTYPE))),
    ("a block device", "B06", lambda: retar(add(LINK, type=tarfile.BLKTYPE))),
    ("a pipe", "B06", lambda: retar(add(LINK, type=tarfile.FIFOTYPE))),
    ("GNU sparse", "B06", sparse),
    ("a GNU long name", "B06", lambda: retar(add("blobs/" + "x" * 200, b"x"), form=tarfile.GNU_FORMAT)),
    ("a pax long name", "B06", lambda: retar(add("blobs/" + "x" * 300, b"x"), form=tarfile.PAX_FORMAT)),
    ("pax: another path", "B06", lambda: pax({"path": "index.json"})),
    ("pax: another size", "B06", lambda: pax_record(b"12 size=99\n")),
    ("pax: sparse", "B06", lambda: pax({"GNU.sparse.major": "1"})),
    ("pax: a path in a time's clothes", "B06", lambda: pax_record(b"21 path=12 mtime=3\n")),
    ("pax: very long", "B06", lambda: pax({"comment": "x" * 100_000})),
    ("a global pax header", "B06", lambda: retar(add("head", b"9 mtime=1\n", type=tarfile.XGLTYPE))),
    # names twice, names for nothing, and what is not there
    ("the index twice", "B10", lambda: retar(add("index.json", index()))),
    ("a blob twice", "B10", lambda: retar(add(MODEL, b"another model"))),
    ("the statement twice", "B10", lambda: retar(add("statement.dsse.json", b"{}"))),
    ("a blob that nobody names", "B07", lambda: retar(add(LINK, b"x"))),
    ("something behind the end", "B07", lambda: golden_bundle() + b"more"),
    ("another tar behind the end", "B07", lambda: golden_bundle() * 2),
    ("zeros without end behind the end", "B07", lambda: golden_bundle() + bytes(2**20)),
    ("no model", "B08", lambda: retar(drop(MODEL))),
    ("no blobs", "B08", lambda: retar(drop("blobs/"))),
    ("a layer without a blob", "B08", lambda: with_manifest(lambda m: layer(m).update(digest="sha256:" + "1" * 64))),
    ("no layer for the model", "B08", lambda: renamed_layer("other.onnx", 0)),
    ("no layer for wherry.json", "B08", lambda: renamed_layer("wherry.yaml", 1)),
    # content
    ("another model", "B04", lambda: retar(put(MODEL, bytes(194)))),
    ("a longer model", "B04", lambda: retar(put(MODEL, golden_parts().model + b"\0"))),
    ("another size", "B04", lambda: with_manifest(lambda m: layer(m).update(size=193))),
    ("another config", "B04", lambda: retar(put(oci.blob_path(opened(golden_bundle()).oci.config.digest), b"{}"))),
    # the index and the OCI manifest
    ("an index that is no JSON", "B09", lambda: retar(put("index.json", b"{"))),
    ("an index of two", "B09", lambda: retar(put("index.json", index(manifests=json.loads(index())["manifests"] * 2)))),
    ("an index of none", "B09", lambda: retar(put("index.json", index(manifests=[])))),
    ("an index of an index", "B09", lambda: retar(put("index.json", index(manifests=[json.loads(index())["manifests"][0] | {"mediaType": oci.INDEX_TYPE}])))),
    ("another schema version", "B09", lambda: retar(put("index.json", index(schemaVersion=1)))),
    ("a digest of another kind", "B09", lambda: with_manifest(lambda m: layer(m).update(digest="sha512:" + "a" * 128))),
    ("a digest that is a path", "B09", lambda: with_manifest(lambda m: layer(m).update(digest="sha256:../../x"))),
    ("a size that is no integer", "B09", lambda: with_manifest(lambda m: layer(m).update(size=194.0))),
    ("a container image", "B09", lambda: with_manifest(lambda m: m.pop("artifactType"))),
    ("another config type", "B09", lambda: with_manifest(lambda m: m["config"].update(mediaType="application/vnd.oci.image.config.v1+json"))),
    ("annotations that are no strings", "B09", lambda: with_manifest(lambda m: layer(m).update(annotations={"a": 1}))),
    ("a layer without a name", "B09", lambda: with_manifest(lambda m: layer(m).pop("annotations"))),
    ("a layer's name with a path", "B09", lambda: renamed_layer("../../etc/passwd")),
    ("a layer's name that is hidden", "B09", lambda: renamed_layer(".bashrc")),
    ("a layer's absolute name", "B09", lambda: renamed_layer("/etc/passwd")),
    ("two layers of one name", "B10", lambda: renamed_layer("wherry.json")),
    # what is in the parts
    ("a manifest from the future", "M03", lambda: from_the_future("wherry.json")),
    ("a profile from the future", "M03", lambda: from_the_future("profile.json")),
    ("golden vectors from the future", "M03", lambda: from_the_future("golden.json")),
    ("an operator outside the list", "M05", foreign_operator),
    ("a pickle for a manifest", "M01", lambda: with_file("wherry.json", b"\x80\x04cos\nsystem\n.")),
    ("a manifest that says a name twice", "M01", lambda: with_file("wherry.json", b'{"schema":1,"schema":2}')),
    ("a profile of something else", "M08", lambda: with_file("profile.json", golden_parts().profile.to_bytes().replace(b'"mini"', b'"maxi"'))),
    ("golden vectors of other features", "M08", lambda: with_file("golden.json", golden_parts().golden.to_bytes().replace(b"RISK", b"RUSK"))),
    ("golden vectors that do not fit", "C03", lambda: with_file("golden.json", golden_parts().golden.to_bytes().replace(b"12.5", b'"12"'))),
]  # fmt: skip


@contextmanager
def nothing_written(folder: Path) -> Iterator[None]:
    """In this block no file grows: the kernel refuses any byte, and the folder stays empty."""
    before = Path.cwd()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        os.chdir(before)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("code", "make"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_bad_bundles(code: str, make: Callable[[], bytes], tmp_path: Path) -> None:
    data = make()
    with nothing_written(tmp_path):
        assert refusal(data) == code


def test_the_makers_of_bad_bundles_can_make_good_ones() -> None:
    good = [
        retar(lambda _: None),
        retar(list.reverse),
        retar(drop("statement")),
        retar(add("blobs/sha256", type=tarfile.DIRTYPE)),
        retar(lambda _: None, form=tarfile.GNU_FORMAT),
        pax_record(b"11 mtime=1\n"),
        with_manifest(lambda m: m.update(annotations={"a": "b"})),
        with_manifest(lambda m: m.update(subject=None)),
        with_file("model-card.md", b"# another card\n"),
        huge_size(b"00000000036\0"),
        golden_bundle() + bytes(10_240),
    ]
    assert [refusal(data) for data in good] == [""] * len(good)


SMALL = [*range(0, 2048, 97), *range(2048, 20_480, 509)]


@pytest.mark.parametrize("length", SMALL)
def test_truncated_anywhere(length: int) -> None:
    """Whatever is missing is noticed, until nothing but the padding is."""
    data = golden_bundle()
    end = len(data.rstrip(b"\0"))
    code = refusal(data[:length])
    if length == 0 or length < tar.BLOCK:
        assert code == "B03"
    elif length < end:
        assert code == "B01"
    else:
        assert code in ("", "B01")


def test_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.wherry"
    with path.open("wb") as stream:
        stream.write(golden_bundle())
        stream.truncate(LIMIT_BYTES + 1)  # a hole: it takes no disk
    with path.open("rb") as stream, pytest.raises(WherryError, match="B02"):
        open_bundle(stream)


# --- every byte


ROOT = TrustRoot.from_bytes(vector("trust.json"))


def verified(data: bytes) -> tuple[Any, ...]:
    """Everything that a device takes from a bundle file."""
    found = opened(data)
    statement = ROOT.open_bundle_statement(found.statement, family="fraud", digest=found.digest)
    return found.digest, found.manifest, found.layout().blobs, statement, found.parts()


GOOD = verified(golden_bundle())


def check_flip(place: int, mask: int) -> str:
    data = bytearray(golden_bundle())
    data[place] ^= mask
    try:
        found = verified(bytes(data))
    except WherryError as error:
        return error.code
    assert found == GOOD, f"byte {place} changed what is in the bundle and nobody saw it"
    return ""


@given(st.integers(0, len(golden_bundle()) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(place: int, mask: int) -> None:
    check_flip(place, mask)


def test_changed_bytes_all_over_the_file() -> None:
    step = 35 if EMULATED else 7
    codes = {check_flip(place, 1 << place % 8) for place in range(0, len(golden_bundle()), step)}
    assert codes >= {"", "B03", "B04", "B07", "B09", "T01", "T09"}


def test_a_changed_byte_of_content_is_refused() -> None:
    for blob in GOOD[2].values():
        start = golden_bundle().index(blob)
        for place in (start, start + len(blob) // 2, start + len(blob) - 1):
            assert check_flip(place, 1) == "B04"
    start = golden_bundle().index(GOOD[1])
    assert {check_flip(start + place, 4) for place in range(0, len(GOOD[1]), 50)} == {"B04"}


@given(st.binary(min_size=1, max_size=40), st.integers(0, 20_000))
def test_bytes_put_in_between(extra: bytes, place: int) -> None:
    data = golden_bundle()[:place] + extra + golden_bundle()[place:]
    with suppress(WherryError):
        assert verified(data) == GOOD


def test_a_bundle_of_another_key_is_whole_but_not_trusted() -> None:
    data = assemble(golden_parts()).to_tar(
        vector("statement.dsse.json").replace(b'"sig":"', b'"sig":"AAAA', 1)
    )
    assert refusal(data) == ""
    with pytest.raises(TrustError):
        verified(data)
