"""Models: the list of bundles, and one with what it says of itself and how it does in the fleet."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from wherry.card import output_words
from wherry.monitor import FleetView, performance_words, words
from wherry.monitor.performance import ASSUMPTION, DECLINED, latest
from wherry.report import charts
from wherry.report.drawing import Picture, plain
from wherry.server.store import Store
from wherry_contract.bundle import CARD_FILE
from wherry_contract.errors import BundleError

from .judged import Judged
from .sessions import Session
from .shell import Shell, picture

_CARD_LETTERS: Final = 100_000
_LISTED: Final = 200


class ModelPages:
    """Draws both."""

    def __init__(self, shell: Shell, store: Store, judged: Judged) -> None:
        """Take what renders, what is known, and the judgement."""
        self._shell = shell
        self._store = store
        self._judged = judged

    def list(self, request: Request, session: Session) -> Response:
        """Bundles in the depot, the newest first."""
        runs = {item.bundle: item for item in self._store.census.counts().runs}
        rows = self._store.bundles()[::-1]
        shown = [(row, runs.get(row.digest)) for row in rows[:_LISTED]]
        more = max(0, len(rows) - _LISTED)
        return self._shell.page("models.html.j2", request, session, rows=shown, more=more)

    def model(self, request: Request, session: Session) -> Response:
        """One bundle.

        Raises:
            RolloutError: R04.
        """
        digest = request.path_params["digest"]
        row, manifest = self._store.bundle(digest), self._store.manifest(digest)
        view = self._judged.view()
        runs = [item for item in self._store.census.counts().runs if item.bundle == digest]
        rollouts = [item for item in self._store.ledger.heads() if item.bundle == digest]
        return self._shell.page(
            "model.html.j2",
            request,
            session,
            row=row,
            manifest=manifest,
            output=output_words(manifest.output).replace("`", ""),
            profile=self._store.profile(digest),
            runs=runs[0] if runs else None,
            rollouts=rollouts,
            pictures=_scores(view, digest),
            performance=_performance(view, digest),
            assumption=ASSUMPTION,
            declined=DECLINED,
            card=self._card(digest),
            provenance={name: _plain(value) for name, value in manifest.provenance.items()},
        )

    def _card(self, digest: str) -> Any:
        """The model card, as HTML; nothing where the bundle has none."""
        from markdown_it import MarkdownIt
        from markupsafe import Markup

        try:
            text = self._store.depot.file(digest, CARD_FILE).decode("utf-8", "replace")
        except BundleError:
            return None
        # what stands in a card is text: no HTML, no pictures from elsewhere
        reader = (
            MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link"])
        )
        tokens = reader.parse(plain(text[:_CARD_LETTERS]))
        for token in tokens:  # the page has its own first heading
            if token.type in ("heading_open", "heading_close"):
                token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
            elif token.type == "th_open":
                token.attrSet("scope", "col")
        return Markup(reader.renderer.render(tokens, reader.options, {}))  # noqa: S704 - it escapes what it renders


def _plain(value: object) -> str:
    return value if isinstance(value, str) else str(value)


def _scores(view: FleetView, digest: str) -> list[Picture]:
    found = []
    for pair in view.scores:
        if pair.bundle == digest and not pair.device:
            note = f"{words.span(pair.opened, pair.closed)}, {pair.rows:,} rows: now (bars), reference (line)"
            found.append(picture(charts.scores(pair, "var(--d1)"), "Scores, all devices", note))
    return found


def _performance(view: FleetView, digest: str) -> list[tuple[str, ...]]:
    """Lines under `performance_words.HEADS` but the model's own name."""
    mine = [item for item in view.performance if item.bundle == digest]
    return [line[1:] for line in performance_words.lines(latest(mine))]
