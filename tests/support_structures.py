"""Documents that hypothesis makes of real ones: right in most places, and wrong in some.

Bytes that are changed at random are mostly no JSON, or of no right digest; these get past
that. What is changed in a bundle gets the digests that belong to it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from support_agent import make_bundle
from support_parsers import HOSTILE, seeds

from wherry_contract.bundle import Layout
from wherry_contract.wire import canonical, sha256_digest

_WORDS = st.text(max_size=12) | st.sampled_from(["a", "shop-1", "sha256:" + "0" * 64, "../x"])
_PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | _WORDS
    | st.sampled_from(HOSTILE)
)
_ANY = st.recursive(
    _PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS, inner, max_size=4),
    max_leaves=8,
)
VALUES = st.sampled_from(HOSTILE) | st.integers(-2, 2**64) | _ANY


@st.composite
def documents(draw: Callable[..., Any], real: bytes) -> bytes:
    """A real JSON document with up to three places changed, taken out, put in or doubled."""
    document = copy.deepcopy(json.loads(real))
    for _ in range(draw(st.integers(1, 3))):
        _change(draw, document)
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _change(draw: Callable[..., Any], node: Any) -> None:
    while isinstance(node, dict | list) and node:
        places = list(node) if isinstance(node, dict) else range(len(node))
        place = draw(st.sampled_from(places))
        inner = node[place]
        if isinstance(inner, dict | list) and inner and draw(st.booleans()):
            node = inner
            continue
        what = draw(st.integers(0, 3))
        if what == 0:
            del node[place]
        elif what == 1 and isinstance(node, list):
            node.append(copy.deepcopy(inner))
        elif what == 2 and isinstance(node, dict):
            node[draw(_WORDS)] = draw(VALUES)
        else:
            node[place] = draw(VALUES)
        return


@st.composite
def bundles(draw: Callable[..., Any]) -> bytes:
    """A bundle in which one document was changed, and whose digests are right all the same."""
    layout = make_bundle(category=True).layout
    manifest, blobs = json.loads(layout.manifest), dict(layout.blobs)
    layer = draw(st.sampled_from([None, *manifest["layers"]]))
    if layer is None:
        text = draw(documents(layout.manifest))
        return Layout(text, blobs, layout.ref_name).to_tar()
    try:
        text = draw(documents(blobs.pop(layer["digest"])))
    except ValueError:  # it is no JSON: the model
        text = draw(st.binary(max_size=200))
    layer |= {"digest": sha256_digest(text), "size": len(text)}
    return Layout(canonical(manifest), blobs | {layer["digest"]: text}, layout.ref_name).to_tar()


def structures(name: str) -> st.SearchStrategy[bytes]:
    """Documents for a parser."""
    if name == "bundle":
        return bundles()
    real = [data for data in seeds(name) if data[:1] in b"{["]
    if not real:
        return st.binary(max_size=400) | st.sampled_from(seeds(name)).flatmap(_spliced)
    return st.sampled_from(real).flatmap(documents)


def _spliced(real: bytes) -> st.SearchStrategy[bytes]:
    """A real one with a piece replaced."""
    places = st.integers(0, len(real))
    return st.tuples(places, places, st.binary(max_size=20)).map(
        lambda cut: real[: min(cut[:2])] + cut[2] + real[max(cut[:2]) :]
    )
