"""What XGBoost and LightGBM ask of a row, and how they compare, in one form for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wherry_contract.errors import ConvertError
from wherry_contract.features import LARGEST
from wherry_convert.forest import LEAF, MAX_NODES, Doubles, Forest, Tree, raw_cuts

from .outputs import Picked, Wanted, class_names, pick_class, pick_value

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Question:
    """What a node asks; nodes that ask the same share it.

    Attributes:
        column: of the model.
        cut: goes left at or below it, as the source compares; whatever for a set.
        members: the category codes of a set; None if the question is about order.
        missing_left: whether a gap goes left.
        zero_missing: whether a zero counts as a gap.
    """

    column: int
    cut: float
    members: frozenset[int] | None
    missing_left: bool
    zero_missing: bool = False

    @property
    def ordered(self) -> bool:
        """Whether an order answers it: no set, and a zero goes where its order says."""
        if self.members is not None:
            return False
        return not self.zero_missing or self.missing_left == (self.cut >= 0)


@dataclass(frozen=True)
class Rules:
    """How a source compares.

    Attributes:
        compared: raw float64 values as they are when they are compared, float64.
        single: it compares float32, as the encoder's tensor holds them.
        members_left: whether the members of a set go left, or all others.
        lowest: a category code from here on can be a member; below it is none.
        unseen: the code that stands for a category that the model does not know.
    """

    compared: Callable[[Doubles], Doubles]
    single: bool
    members_left: bool
    lowest: float
    unseen: float

    def goes_left(self, asked: Question, values: Doubles) -> Bools:
        """The source's decision on raw float64 values; NaN is a gap."""
        found = self.compared(values)
        if asked.members is not None:
            inside = (found >= self.lowest) & np.isin(np.trunc(found), list(asked.members))
            left = inside if self.members_left else ~inside
        else:
            left = found <= asked.cut
            if asked.zero_missing:
                left = np.where(found == 0, asked.missing_left, left)
        return np.asarray(np.where(np.isnan(values), asked.missing_left, left))

    def edges(self, asked: Sequence[Question]) -> Doubles:
        """The last raw value before each change of an answer: ascending, finite."""
        at, below = [], []
        for item in asked:
            if item.members is None:
                at.append(item.cut)
            else:
                below += [float(code) or self.lowest for code in item.members]
                below += [code + 1.0 for code in item.members]
            if item.zero_missing:
                at.append(0.0)
                below.append(0.0)
        found = np.union1d(self.cuts(np.unique(at)), self.cuts(np.unique(below), np.less))
        return found[np.isfinite(found)]

    def cuts(self, compared: Doubles, test: Any = np.less_equal) -> Doubles:
        """The largest raw value that passes against each cut; infinite where none or all do."""
        return raw_cuts(lambda raw: test(self.compared(raw), compared), len(compared), LARGEST)


@dataclass(frozen=True)
class Grown:
    """A model as it was read.

    Attributes:
        forest: its trees; a node's cut is the number of its question.
        questions: what the nodes ask.
        rules: how the source compares.
        count: how many columns it takes.
        names: of its columns; empty if it has none.
        categories: by column, the names of its categories in the order of their codes.
        notes: what a reader of the report should know.
    """

    forest: Forest
    questions: tuple[Question, ...]
    rules: Rules
    count: int
    names: tuple[str, ...] = ()
    categories: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def asked(self) -> Mapping[int, list[int]]:
        """By column, the numbers of the questions about it; columns without any are left out."""
        found: dict[int, list[int]] = {}
        for number, question in enumerate(self.questions):
            found.setdefault(question.column, []).append(number)
        return found

    def check(self) -> None:
        """Check that the trees are ones.

        Raises:
            ValueError: a node asks or leads outside.
            ConvertError: K01, there are too many nodes.
        """
        if sum(len(tree.left) for tree in self.forest.trees) > MAX_NODES:
            raise ConvertError("K01", f"the model has more than {MAX_NODES} nodes; use fewer trees")
        self.forest.check(self.count)
        if any(np.isnan(asked.cut) for asked in self.questions):
            raise ValueError("a threshold is no number")

    def pick(self, wanted: Wanted, *, classes: int, cure: str) -> Picked:
        """What of the scores is looked at.

        Args:
            wanted: what the project decides by.
            classes: that the objective tells apart; 0 for a regressor.
            cure: what else to do, in words.

        Raises:
            ConvertError: K01.
        """
        if classes:
            return pick_class(wanted, class_names(range(classes)), "the booster", cure)
        return pick_value(wanted, self.forest.span, "the booster", cure)


class Planter:
    """Collects the questions of a model and builds its trees."""

    def __init__(self) -> None:
        self._numbers: dict[Question, int] = {}

    @property
    def questions(self) -> tuple[Question, ...]:
        """All that were asked so far."""
        return tuple(self._numbers)

    def tree(
        self,
        left: Sequence[int],
        right: Sequence[int],
        asked: Sequence[Question | None],
        leaf: Sequence[float],
    ) -> Tree:
        """A tree whose nodes are in order, parents before children.

        Args:
            left: left children by node; whatever in a leaf.
            right: likewise.
            asked: by node, its question, or None in a leaf.
            leaf: by node, what a leaf adds.

        Raises:
            ValueError: the nodes are no tree.
        """
        order, places = [0], {0: 0}
        for node in order:
            if asked[node] is None:
                continue
            for child in (left[node], right[node]):
                if child in places or not 0 <= child < len(asked):
                    raise ValueError("a tree points outside itself")
                places[child] = len(order)
                order.append(child)
        found = [(node, asked[node]) for node in order]
        numbers = [
            -1 if q is None else self._numbers.setdefault(q, len(self._numbers)) for _, q in found
        ]
        return Tree(
            feature=np.array([0 if q is None else q.column for _, q in found], np.int64),
            cut=np.array(numbers, np.float64),
            left=np.array([LEAF if q is None else places[left[n]] for n, q in found], np.int64),
            right=np.array([LEAF if q is None else places[right[n]] for n, q in found], np.int64),
            missing_left=np.array([q is not None and q.missing_left for _, q in found], np.bool_),
            value=np.array([leaf[n] if q is None else 0.0 for n, q in found], np.float64),
        )  # fmt: skip
