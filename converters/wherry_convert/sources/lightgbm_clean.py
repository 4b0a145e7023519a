"""A LightGBM model written anew from what was checked, for LightGBM to read.

Its own reader trusts a file, and a damaged one ends the process. So it gets a text in which
every list has its length and every number its kind: the same thresholds, decisions, sets and
leaves, and nothing that scoring does not need.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

MAX_COLUMNS: Final = 65_536
_MAX_WORDS: Final = 2**17  # of a tree's sets, 32 categories each
_WORD: Final = 2**32 - 1
_DECISIONS: Final = frozenset({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11})


def numbers(block: Mapping[str, str], name: str, count: int) -> list[int]:
    """The whole numbers of a list.

    Raises:
        ValueError: they are none, or not `count`.
    """
    return _list(block, name, count, int)


def floats(
    block: Mapping[str, str], name: str, count: int, *, infinite: bool = False
) -> list[float]:
    """The numbers of a list.

    Raises:
        ValueError: they are none, not finite where they must be, or not `count`.
    """
    found = _list(block, name, count, float)
    if any(math.isnan(item) or (math.isinf(item) and not infinite) for item in found):
        raise ValueError(f"a number of {name} is not finite")
    return found


def _list(block: Mapping[str, str], name: str, count: int, kind: Any) -> list[Any]:
    found = [kind(item) for item in block.get(name, "").split()]
    if len(found) != count:
        raise ValueError(f"{len(found)} of {name}, not {count}")
    return found


def set_words(block: Mapping[str, str]) -> list[list[int]]:
    """The sets of a tree, each as words of 32 bits, the lowest first.

    Raises:
        ValueError: they are malformed.
    """
    count = int(block.get("num_cat", "0"))
    if not count:
        return []
    ends = numbers(block, "cat_boundaries", count + 1)
    if ends[0] != 0 or ends[-1] > _MAX_WORDS or any(b <= a for a, b in pairwise(ends)):
        raise ValueError("cat_boundaries do not ascend, or too far")
    words = numbers(block, "cat_threshold", ends[-1])
    if any(not 0 <= word <= _WORD for word in words):
        raise ValueError("a set is no words of 32 bits")
    return [words[a:b] for a, b in pairwise(ends)]


def clean_text(
    blocks: Sequence[Mapping[str, str]],
    *,
    columns: int,
    objective: str,
    averaged: bool,
    each: int = 1,
) -> str:
    """The model as LightGBM's own text.

    Args:
        blocks: the settings of each tree; they are known to be trees.
        columns: of the model.
        objective: as LightGBM writes it.
        averaged: whether leaves are averaged.
        each: trees of a round, one for each class.

    Raises:
        KeyError, ValueError: a part is missing or has another form.
    """
    head = [
        "tree",
        "version=v4",
        f"num_class={each}",
        f"num_tree_per_iteration={each}",
        "label_index=0",
        f"max_feature_idx={columns - 1}",
        f"objective={objective}",
        *["average_output"] * averaged,
        _line("feature_names", [f"Column_{place}" for place in range(columns)]),
        _line("feature_infos", ["none"] * columns),
    ]
    trees = [_tree(block, number) for number, block in enumerate(blocks)]
    return "\n\n".join(["\n".join(head), *trees, "end of trees\n"])


def _line(name: str, values: Sequence[Any]) -> str:
    return f"{name}={' '.join(map(str, values))}"


def _tree(block: Mapping[str, str], number: int) -> str:
    leaves = int(block["num_leaves"])
    inner = leaves - 1
    words = set_words(block)
    decisions = numbers(block, "decision_type", inner)
    cuts: list[Any] = floats(block, "threshold", inner, infinite=True)
    for node, decision in enumerate(decisions):
        if decision not in _DECISIONS:
            raise ValueError(f"decision {decision} is not known")
        if decision & 1:
            cuts[node] = _place(cuts[node], len(words))
    lines = [
        f"Tree={number}",
        f"num_leaves={leaves}",
        f"num_cat={len(words)}",
        _line("split_feature", numbers(block, "split_feature", inner)),
        _line("threshold", cuts),
        _line("decision_type", decisions),
        _line("left_child", numbers(block, "left_child", inner)),
        _line("right_child", numbers(block, "right_child", inner)),
        _line("leaf_value", floats(block, "leaf_value", leaves)),
    ]
    if words:
        ends = [sum(map(len, words[:place])) for place in range(len(words) + 1)]
        lines += [
            _line("cat_boundaries", ends),
            _line("cat_threshold", [word for part in words for word in part]),
        ]
    return "\n".join([*lines, "is_linear=0", "shrinkage=1", ""])


def _place(value: float, count: int) -> int:
    if value not in range(count):
        raise ValueError(f"there is no set {value}")
    return int(value)
