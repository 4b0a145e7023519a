"""Where boards are flashed: one, or one after the other from a provisioning file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wherry.boards.overlay import Pin, pins_of
from wherry.boards.recipe import Recipe
from wherry.profiles import Board
from wherry_contract.errors import WherryError

from .batch import Entry, Record, Row, row_digest
from .carry import way_to
from .kit import key_of, kit_of
from .terminal import Terminal, folder_of, runtime_for
from .work import Plan, carry_out, check, is_root_of_a_running_board, look_at

DONE = "done"


@dataclass(frozen=True)
class Bench:
    """What all boards of one call share.

    Attributes:
        board: what they are.
        recipe: of it.
        pin: the runtime; None for the board's own.
        ssh_config: as `ssh -F` takes it.
        sudo: whether to become root over ssh.
        start: whether the agent of a board that runs is started anew.
        claim: has the fleet's server make a claim code.
        tell: takes a step in words.
        bar: a progress bar of so many bytes; its function takes steps.
    """

    board: Board
    recipe: Recipe
    pin: Pin | None
    ssh_config: Path | None
    sudo: bool
    start: bool
    claim: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    tell: Callable[[str], None]
    bar: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

    def plan(self, terminal: Terminal) -> Plan:
        """Look at a board, and say what would be done.

        Raises:
            SetupError: H02, H03, H06, H15 or H16.
            WherryError: the first bundle is refused.
        """
        folder = folder_of(terminal, self.board)
        pins = [self.pin] if self.pin else pins_of(self.board)
        pin = runtime_for(terminal, self.board, pins)
        way = way_to(terminal.to, ssh_config=self.ssh_config, sudo=self.sudo)
        survey = look_at(way, self.recipe, key_of(self.recipe, pin), folder)
        kit = kit_of(self.recipe, pin, self.tell)
        check(way, survey, self.recipe, kit.size // 1024)
        start = self.start and is_root_of_a_running_board(way)
        return Plan(way, self.board.name, pin, kit, folder, survey, start)

    def carry_out(self, plan: Plan) -> None:
        """Do it.

        Raises:
            SetupError: H16.
        """
        with self.bar(f"writing {plan.folder.name}", plan.size) as step:
            carry_out(plan, step)

    def many(self, rows: Sequence[Row], record: Record) -> list[Entry]:
        """Flash what the record does not know as done; one that fails ends no batch.

        Returns:
            What became of each row, those of earlier calls too.

        Raises:
            StoreError: D01 or D06, the record cannot be written.
        """
        left = [row for row in rows if not is_done(record, row)]
        for number, row in enumerate(left, 1):
            self.tell(f"{number} of {len(left)}: {row.terminal.device}")
            self._one(row.terminal, record)
        return [record.entries[row.terminal.device] for row in rows]

    def _one(self, terminal: Terminal, record: Record) -> None:
        known = record.of(terminal)
        entry = Entry(terminal.device, terminal.to, row_digest(terminal), "begun")
        try:
            if known and known.claim:  # it was made before, and may be on the board already
                entry = replace(entry, claim=known.claim, url=known.url)
            elif terminal.family:
                entry = self._with_code(entry, terminal)
            record.put(entry)
            if entry.claim:
                terminal = replace(terminal, claim=entry.claim, url=entry.url, family="", labels={})
            plan = self.plan(terminal)
            if not plan.done:
                self.carry_out(plan)
        except WherryError as error:
            self.tell(error.render())
            record.put(replace(entry, state="failed", error=str(error)))
            return
        entry = replace(entry, state=DONE, claim="", url="")  # the code is the board's now
        record.put(replace(entry, folder=plan.folder.name, kit=plan.kit.key))

    def _with_code(self, entry: Entry, terminal: Terminal) -> Entry:
        order = {
            "family": terminal.family,
            "labels": dict(terminal.labels),
            "device": terminal.device,
        }
        found = self.claim(order)
        return replace(entry, claim=found["codes"][0], url=found["url"])


def is_done(record: Record, row: Row) -> bool:
    """Whether the record says that a row is on its board, as the file has it."""
    found = record.of(row.terminal)
    return found is not None and found.state == DONE
