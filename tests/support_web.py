"""What tests of the server's pages share: a fleet that was filled in, its pages over HTTP, a browser.

The pages are the server's own application on a socket; the browser is a real Chromium.
"""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import sqlalchemy as sa
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright
from support import wait_for
from support_agent import make_bundle, reference_rows
from support_fleet import FAMILY, open_store, state, trust_keys

from wherry.rows import Decision, DeviceRow, Exposure, Incident, RolloutRow
from wherry.server import database as db
from wherry.server.api import make_app
from wherry.server.intake import Batch
from wherry.server.ledger import Change
from wherry.server.office import Office, Site
from wherry.server.store import Store
from wherry_contract.histograms import LATENCY_BINS, SCORE_BINS, score_bins
from wherry_contract.messages import Event, Place
from wherry_contract.signature import PublicKey
from wherry_contract.window import Window

DAY = 86_400.0
MONDAY = 1_532_304_000.0  # 2018-07-23
TOKEN = "a" * 64
EVIL = "<script>alert(1)</script>\" onload='x' {{ 7 * 7 }} \u202e&amp;"
CARD = f"""# A model

## Worth

| metric | bundle |
|---|---|
| AUC | 0.9 |

{EVIL} ![x](https://evil.example/x.png) [here](javascript:alert(1))
"""
MADE = make_bundle(category=True, rows=5000, card=CARD.encode())
NEWER = make_bundle("1.1.0", category=True, rows=5000)
TILLS = tuple(f"till-{number}" for number in range(1, 7))
MOVED = "till-3"
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


# --- a fleet that has a past ----------------------------------------------------------------


def window_of(device: str, day: int, seq: int, rng: np.random.Generator, shift: float) -> Window:
    """A day's window of 400 rows, counted by the bundle's own profile."""
    profile, inputs = MADE.parts.profile, MADE.parts.manifest.input
    raw = reference_rows(inputs, 400, int(rng.integers(1 << 30)))
    raw[:, 0] = np.minimum(raw[:, 0] * shift, 1e5)
    counter = profile.counter(inputs)
    slots = counter.zeros()
    counter.add(slots, raw)
    scores = 1 / (1 + np.exp(-(raw[:, 0] - 150) / 40))
    latency = [0] * LATENCY_BINS
    latency[18 + int(rng.integers(3))] = len(raw)
    return Window(
        place=Place(device, "0" * 16, seq, 1),
        bundle=MADE.digest,
        edges=profile.edges_id,
        opened=MONDAY + (day + 0.4) * DAY,
        closed=MONDAY + (day + 0.6) * DAY,
        rows=len(raw),
        flagged=int((scores > 0.5).sum()),
        fallback=0,
        errors={},
        features=dict(zip(inputs.names, counter.split(slots), strict=True)),
        scores=tuple(np.bincount(score_bins(scores), minlength=SCORE_BINS).tolist()),
        latency=tuple(latency),
        reason="time",
    )


def fill(store: Store, now: float, days: int = 16) -> None:
    """Six tills with three weeks behind them: at one the amounts have moved; two rollouts."""
    made = store.depot.folder.parent / "made"
    for item in (MADE, NEWER):
        made.write_bytes(item.to_tar())
        with made.open("rb") as stream:
            store.add_bundle(store.depot.add(stream))
    rng = np.random.default_rng(4)
    windows = []
    for number, name in enumerate(TILLS):
        site = "paris" if number % 2 else "lyon"
        store.enrol(DeviceRow(name, FAMILY, {"site": site}, now - 30 * DAY))
        for day in range(days):
            shift = 4.0 if name == MOVED and day >= days - 5 else 1.0
            windows.append(window_of(name, day, day + 1, rng, shift))
    store.enrol(DeviceRow("till-new", FAMILY, {"site": "lyon"}, now - 100))
    windows.sort(key=lambda item: (item.opened, item.place.device))
    states = {
        name: state(
            name,
            labels={"site": "paris" if number % 2 else "lyon", "note": EVIL[:40]},
            bundle=MADE.digest,
            bundle_name="fraud",
            bundle_version="1.0.0",
            trust="good",
            active="a",
            fallback=name == "till-5",
            runtime_version="1.27.0",
        )
        for number, name in enumerate(TILLS)
    }
    told = [
        ("B04", "error", EVIL),
        ("update.committed", "info", "committed"),
        ("M02", "warning", "1 % missing"),
    ]
    events = [
        Event(Place("till-5", "0" * 16, 100 + n, 1), code, text, now - 60 * n, severity=severity)
        for n, (code, severity, text) in enumerate(told)
    ]
    incident = Incident(now - 500, "till-2", "window", "G02", "window.rows should be a number", 90)
    store.add(
        Batch(
            received_at=now - 240,
            windows=[(item, item.to_bytes()) for item in windows],
            events=[(item, item.to_bytes()) for item in events],
            states=states,
            presence={name: (name != "till-4", "1" * 16) for name in TILLS},
            incidents=[incident],
        )
    )
    _roll_out(store, now)


def _roll_out(store: Store, now: float) -> None:
    """One rollout that was reverted, and one that is under way."""
    common: dict[str, Any] = {
        "name": "fraud",
        "family": FAMILY,
        "select": {},
        "policy": {"shares": ["1", "100%"], "max_failures": 0, "soak_rows": 5, "soak_seconds": 0,
                   "silent_seconds": 900.0, "hold_seconds": 90000.0},
        "created_at": now - 7200,
        "changed_at": now - 7200,
    }  # fmt: skip
    first = RolloutRow("bad", NEWER.digest, version="1.1.0", state="canary", wave=0, waves=2,
                       devices=tuple(Exposure(name, min(n, 1)) for n, name in enumerate(TILLS)), **common)  # fmt: skip
    name = store.ledger.create(first)
    figures = {"devices": 1, "committed": 0, "failed": 1, "away": 0, "open": 0, "undecided": 0,
               "allowed_failures": 0}  # fmt: skip
    gone = Exposure("till-1", 0, MADE.digest, now - 7100, now - 7000, 2, "refused", "P01",
                    f"golden vectors disagree {EVIL}", now - 7050)  # fmt: skip
    steps = [
        (now - 7040, "canary", "failed", "aborted", figures, "1 failed, 0 may: till-1 refused P01"),
        (now - 7030, "aborted", "returning", "reverting", {"exposed": 1, "back": 0, "kept": 0, "away": 0}, "0 of 1 are back"),
        (now - 7000, "reverting", "returned", "reverted", {"exposed": 1, "back": 1, "kept": 0, "away": 0}, "1 are back, 0 are away"),
    ]  # fmt: skip
    for at, before, event, after, found, why in steps:
        decision = Decision(at, before, event, after, 0, found, why)
        store.ledger.apply(name, Change(at, after, 0, decision, (gone,)))
    store.ledger.create(replace(first, id="good", bundle=MADE.digest, version="1.0.0",
                                created_at=now - 900, changed_at=now - 900))  # fmt: skip
    advance(store, "r2-good", now - 600)


def finish(store: Store, name: str, at: float) -> None:
    """All devices of a rollout commit, and it is done."""
    row = store.ledger.rollout(name)
    done = [
        replace(item, offered_at=at, outcome="committed", settled_at=at) for item in row.devices
    ]
    figures = {"devices": 5, "committed": 5, "failed": 0, "away": 0, "open": 0, "undecided": 0,
               "allowed_failures": 0}  # fmt: skip
    decision = Decision(
        at, row.state, "finished", "done", 1, figures, "5 committed and healthy, 0 away"
    )
    store.ledger.apply(name, Change(at, "done", 1, decision, tuple(done)))


def advance(store: Store, name: str, at: float) -> None:
    """The canary of a rollout passes, and the next device gets its order."""
    row = store.ledger.rollout(name)
    done = replace(row.devices[0], offered_at=at - 200, outcome="committed", settled_at=at)
    started = replace(row.devices[1], offered_at=at)
    figures = {"devices": 1, "committed": 1, "failed": 0, "away": 0, "open": 0, "undecided": 0,
               "allowed_failures": 0}  # fmt: skip
    decision = Decision(
        at, row.state, "passed", "wave", 0, figures, "1 committed and healthy, 0 away"
    )
    store.ledger.apply(name, Change(at, "wave", 1, decision, (done, started)))


def crowd(database: db.Database, count: int, now: float) -> None:
    """Many devices at once, each with a report, as the table has them."""
    said = state("x", bundle=MADE.digest, bundle_name="fraud", bundle_version="1.0.0", trust="good")
    with database.writing() as connection:
        connection.execute(
            db.device.insert(),
            [
                {
                    "id": f"crowd-{number:05d}",
                    "family": FAMILY,
                    "labels": {"site": f"s{number % 200}"},
                    "enrolled_at": now,
                    "online": number % 10 > 0,
                    "session": "1" * 16,
                    "seen_at": now - number,
                    "state": replace(said, device=f"crowd-{number:05d}").to_bytes(),
                }
                for number in range(count)
            ],
        )


def crowd_rollout(store: Store, count: int, now: float) -> str:
    """A rollout to all of them that is under way; returns its id."""
    devices = tuple(
        Exposure(f"crowd-{n:05d}", min(n, 1), offered_at=now, outcome="refused" * (n % 100 == 50))
        for n in range(count)
    )
    policy = {"shares": ["1", "100%"], "max_failures": 1000, "silent_seconds": 900.0}
    row = RolloutRow("big", MADE.digest, "fraud", "1.0.0", FAMILY, "wave", 1, 2, {}, policy, now, now,
                     devices=devices)  # fmt: skip
    return store.ledger.create(row)


# --- its pages ------------------------------------------------------------------------------


@dataclass
class Away:
    """The pages of a server, without a browser."""

    url: str

    def ask(
        self, path: str, form: dict[str, str] | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """A request without a browser: status, headers, text; a form makes it a POST."""
        where = urlsplit(self.url)
        connection = HTTPConnection(where.hostname or "", where.port, timeout=60)
        body = urlencode(form) if form is not None else None
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST" if body is not None else "GET", path, body, named)
        answer = connection.getresponse()
        text = answer.read().decode()
        found = {name.lower(): value for name, value in answer.getheaders()}
        cookies = "; ".join(
            value.partition(";")[0] for name, value in answer.getheaders() if name == "set-cookie"
        )
        connection.close()
        return answer.status, found | {"set-cookies": cookies}, text

    def cookie(self, token: str = TOKEN) -> str:
        """Signs in."""
        _, headers, text = self.ask("/sign-in")
        mark = text.partition('name="form" value="')[2].partition('"')[0]
        form = {"form": mark, "token": token}
        status, headers, _ = self.ask("/sign-in", form, Cookie=headers["set-cookies"])
        assert status == 303
        return headers["set-cookies"]


@dataclass
class Pages(Away):
    """The server's application as it runs in this process.

    Attributes:
        statements: what was asked of the database, since somebody cleared it.
    """

    store: Store
    database: db.Database
    statements: list[str] = field(default_factory=list)


@contextmanager
def running_pages(folder: Path) -> Iterator[Pages]:
    """The application on a free port, with an empty store."""
    trust_keys(folder)
    with open_store(folder) as store, socket.create_server(("127.0.0.1", 0)) as listener:
        site = Site("http://x", "fleet", lambda _: "", lambda: None)
        office = Office(store, site, PublicKey("0" * 64, "0" * 64), time.time, lambda: None)
        config = uvicorn.Config(
            make_app(office, TOKEN, folder), log_config=None, lifespan="off", access_log=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        database = store._database
        found = Pages(f"http://127.0.0.1:{listener.getsockname()[1]}", store, database)
        sa.event.listen(
            database._engine,
            "before_cursor_execute",
            lambda *said: found.statements.append(said[2]),
        )
        try:
            wait_for(lambda: server.started, what="the pages")
            yield found
        finally:
            server.should_exit = True
            thread.join(20)


# --- a browser ------------------------------------------------------------------------------


@dataclass
class Tab:
    """A page of the browser, and everything that it complained about or asked for."""

    page: Page
    url: str
    complaints: list[str]
    asked: list[str]

    def open(self, path: str) -> Page:
        """Go there."""
        self.page.goto(self.url + path)
        return self.page

    def sign_in(self) -> Page:
        """Go in by the form."""
        page = self.open("/")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(self.url + "/")
        return page

    def check(self) -> None:
        """It complained about nothing and asked nobody else."""
        assert self.complaints == []
        others = [url for url in self.asked if not url.startswith(self.url)]
        assert others == []

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        found = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.page.evaluate(found))


@contextmanager
def running_browser(folder: Path) -> Iterator[Browser]:
    """A headless Chromium."""
    program = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    assert program, "no Chromium: apt-get install chromium"
    folder.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(_QUIET))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def tab(
    browser: Browser, url: str, width: int = 1280, height: int = 900, **more: Any
) -> Iterator[Tab]:
    """A fresh profile with one page in it."""
    context = browser.new_context(viewport={"width": width, "height": height}, **more)
    page = context.new_page()
    found = Tab(page, url, [], [])
    page.on("console", lambda said: found.complaints.append(f"{said.type}: {said.text}"))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("request", lambda request: found.asked.append(request.url))
    try:
        yield found
    finally:
        with suppress(Exception):
            context.close()
