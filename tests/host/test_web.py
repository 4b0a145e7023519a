"""The server's pages: who gets in, and what they ask of the memory; without a browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support_fleet import enrol, running_server, window
from support_web import EVIL, TILLS, TOKEN, Away, Pages, crowd, crowd_rollout, fill, running_pages

from wherry.rows import Exposure, RolloutRow
from wherry.server.audit import KINDS
from wherry.server.census import Wanted
from wherry.server.intake import Batch
from wherry.server.rollout import Policy
from wherry.server.web.rollouts import gates
from wherry.server.web.sessions import LIFE_SECONDS, MOST_SESSIONS, TRIES, TRY_SECONDS, Sessions
from wherry.server.web.shell import ago
from wherry_contract.shadow import ShadowCounts

NOW = time.time()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    with running_pages(tmp_path_factory.mktemp("pages")) as found:
        fill(found.store, NOW)
        yield found


# --- who gets in ----------------------------------------------------------------------------


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        """What it shows."""
        return self.now


def test_a_session_lasts_until_it_ends() -> None:
    clock = Clock()
    sessions = Sessions("secret", clock)
    cookie = sessions.sign_in("a", "secret\n")
    assert sessions.of(cookie)
    assert sessions.of(cookie + "x") is None
    assert sessions.of("") is None
    clock.now += LIFE_SECONDS
    assert sessions.of(cookie) is None
    other = sessions.sign_in("a", "secret")
    sessions.sign_out(other)
    assert sessions.of(other) is None


@pytest.mark.parametrize("shown", ["", "Secret", "secre", "secretx", "\udcff", "s\u00e9cret"])
def test_another_token_opens_nothing(shown: str) -> None:
    assert Sessions("secret", Clock()).sign_in("a", shown.encode("utf-8", "replace").decode()) == ""


def test_who_tries_too_often_waits_and_others_do_not() -> None:
    clock = Clock()
    sessions = Sessions("secret", clock)
    for _ in range(TRIES):
        assert sessions.wait_seconds("a") == 0
        sessions.sign_in("a", "wrong")
        clock.now += 1
    assert sessions.wait_seconds("a") == TRY_SECONDS - TRIES
    assert sessions.wait_seconds("b") == 0
    clock.now += TRY_SECONDS - TRIES
    assert sessions.wait_seconds("a") == 0


def test_the_oldest_session_goes_first() -> None:
    sessions = Sessions("secret", Clock())
    cookies = [sessions.sign_in("a", "secret") for _ in range(MOST_SESSIONS + 1)]
    assert [bool(sessions.of(cookie)) for cookie in cookies] == [False, *[True] * MOST_SESSIONS]


@pytest.mark.parametrize("path", ["/", "/devices", "/devices/till-1", "/devices/nobody"])
def test_nothing_is_shown_to_who_has_not_signed_in(pages: Pages, path: str) -> None:
    for cookie in ("", "wherry-fleet=", f"wherry-fleet={TOKEN}"):
        status, headers, text = pages.ask(path, Cookie=cookie)
        assert (status, text) == (303, "")
        assert headers["location"].startswith("/sign-in")


def test_the_cookie_is_no_token_and_the_token_no_cookie(pages: Pages) -> None:
    assert pages.ask("/api/v1/devices", Cookie=pages.cookie())[0] == 401
    assert pages.ask("/", Authorization=f"Bearer {TOKEN}")[0] == 303


def test_what_a_page_may_do_is_said_with_it(pages: Pages) -> None:
    for status, headers, _ in (pages.ask("/sign-in"), pages.ask("/", Cookie=pages.cookie())):
        assert status == 200
        assert "unsafe" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert (headers["cache-control"], headers["x-content-type-options"]) == (
            "no-store",
            "nosniff",
        )
    _, headers, _ = pages.ask("/sign-in")
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite=strict" in headers["set-cookie"]


@pytest.mark.parametrize(
    ("form", "cookie"),
    [
        ({"token": TOKEN}, ""),
        ({"token": TOKEN, "form": "x"}, ""),
        ({"token": TOKEN, "form": "x"}, "wherry-form-fleet=y"),
        ({"token": TOKEN, "form": ""}, "wherry-form-fleet="),
        ({"token": "x" * 9000, "form": "x"}, "wherry-form-fleet=x"),
    ],
)
def test_a_form_that_we_did_not_give_out_changes_nothing(
    pages: Pages, form: dict[str, str], cookie: str
) -> None:
    status, headers, _ = pages.ask("/sign-in", form, Cookie=cookie)
    assert status == 400
    assert "wherry-fleet=" not in headers["set-cookies"]
    signed = pages.cookie()
    assert pages.ask("/sign-out", form, Cookie=signed)[0] == 400
    assert pages.ask("/", Cookie=signed)[0] == 200


@pytest.mark.parametrize(
    ("aim", "place"),
    [
        ("/devices?find=site%3Dparis", "/devices?find=site%3Dparis"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/x\r\nSet-Cookie: a=b", "/"),
        ("", "/"),
    ],
)
def test_after_the_way_in_one_is_where_one_wanted_to_be_on_this_server(
    pages: Pages, aim: str, place: str
) -> None:
    form = {"form": "m", "token": TOKEN, "next": aim}
    status, headers, _ = pages.ask("/sign-in", form, Cookie="wherry-form-fleet=m")
    assert (status, headers["location"]) == (303, place)


def test_guessing_is_slow(tmp_path: Path) -> None:
    form = {"form": "m", "token": "wrong"}
    with running_pages(tmp_path) as pages:
        said = [pages.ask("/sign-in", form, Cookie="wherry-form-fleet=m") for _ in range(TRIES + 1)]
        assert [status for status, _, _ in said] == [403] * TRIES + [429]
        assert int(said[-1][1]["retry-after"]) > 0
        status, _, _ = pages.ask("/sign-in", form | {"token": TOKEN}, Cookie="wherry-form-fleet=m")
        assert status == 429  # the right one must wait too, else waiting would be no hindrance


# --- what is asked of the memory ------------------------------------------------------------


def test_the_fleet_is_counted(pages: Pages) -> None:
    counts = pages.store.census.counts()
    assert (counts.devices, counts.online, counts.away, counts.never) == (7, 5, 1, 1)
    assert counts.by_rule == 1
    assert [(item.version, item.devices, item.online) for item in counts.runs] == [
        ("1.0.0", 6, 5),
        ("", 1, 0),
    ]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(), [*TILLS, "till-new"]),
        (Wanted(find="TILL-1"), ["till-1"]),
        (Wanted(find="till site=paris"), ["till-2", "till-4", "till-6"]),
        (Wanted(find="site=nowhere"), []),
        (Wanted(find="%"), []),
        (Wanted(find='a"b=c'), []),
        (Wanted(find="="), []),
        (Wanted(link="away"), ["till-4"]),
        (Wanted(link="never"), ["till-new"]),
        (Wanted(link="online", find="site=paris"), ["till-2", "till-6"]),
        (Wanted(by_rule=True), ["till-5"]),
        (Wanted(bundle="sha256:none"), []),
        (Wanted(order="seen"), [*TILLS, "till-new"]),
    ],
)
def test_devices_are_found(pages: Pages, wanted: Wanted, found: list[str]) -> None:
    total, rows = pages.store.census.page(wanted, 0, 50)
    assert [row.device for row in rows] == found
    assert total == len(found)
    assert [row.device for row in pages.store.census.page(wanted, 1, 2)[1]] == found[1:3]


def test_all_that_was_done_is_there_once_the_latest_first(pages: Pages) -> None:
    trail = pages.store.trail
    every = trail.latest(1000)
    assert [entry.at for entry in every] == sorted((entry.at for entry in every), reverse=True)
    whats = [entry.what for entry in every]
    counts = {what: whats.count(what) for what in set(whats)}
    assert counts == {
        "model taken": 2,
        "rollout begun": 2,
        "canary to aborted": 1,
        "aborted to reverting": 1,
        "reverting to reverted": 1,
        "canary to wave": 1,
        "enrolled": 7,
        "not taken: G02": 1,
    }
    assert sum(len(trail.latest(1000, kinds=[kind])) for kind in KINDS) == len(every)
    assert {entry.device for entry in trail.latest(9, device="till-2")} == {"till-2"}
    first = trail.latest(5)
    assert [*first, *trail.latest(1000, before=first[-1].at)] == every


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (7300, "2 hours ago"),
        (2e5, "2 days ago"),
    ],
)
def test_ages_in_words(seconds: float, said: str) -> None:
    assert ago(seconds) == said


def test_what_devices_say_stays_text(pages: Pages) -> None:
    cookie = pages.cookie()
    for path in ("/", "/devices", "/devices/till-5", "/rollouts/r1-bad"):
        _, _, text = pages.ask(path, Cookie=cookie)
        assert "&lt;script&gt;alert(1)" in text
        assert "<script>alert" not in text
        assert "\u202e" not in text
    _, _, text = pages.ask("/devices?find=%3Cscript%3E%22", Cookie=cookie)
    assert "<script>&" not in text
    assert EVIL not in text


def test_a_rollouts_page_says_what_its_shadows_have_counted(tmp_path: Path) -> None:
    bundle = "sha256:" + "1" * 64
    decisions, scores, joint = (1900, 60, 30, 10), (2000, *(0,) * 63), (2000, *(0,) * 255)
    counts = ShadowCounts(bundle, 2000, 3, 4, decisions, scores, joint, off="cpu")
    policy = Policy(shadow_rows=200, shadow_seconds=1800).to_dict()
    with running_pages(tmp_path) as found:
        store, cookie = found.store, found.cookie()
        name = store.ledger.create(
            RolloutRow("new", bundle, "fraud", "2", "fraud", "shadow", 0, 2, {}, policy,
                       NOW - 60, NOW - 60, devices=(Exposure("a", 0, sequence=1), Exposure("b", 1)))
        )  # fmt: skip
        page = f"/rollouts/{name}"
        assert "No counts have come yet" in found.ask(page, Cookie=cookie)[2]
        item = window("a", 1, shadow=counts)
        other = window("a", 2, shadow=replace(counts, bundle="sha256:" + "2" * 64))
        third = window("b", 1, shadow=counts)  # which is not of the canary
        store.add(Batch(NOW, [(made, made.to_bytes()) for made in (item, other, third)]))
        text = " ".join(found.ask(page, Cookie=cookie)[2].split())
    assert "90 of 2,000 payments decided otherwise" in text
    assert "4.50 %, with 95 % confidence 3.68 to 5.50 %" in text
    assert "<td>cpu</td>" in text


@pytest.mark.parametrize(
    "path", ["/devices/nobody", "/rollouts/none", "/models/sha256:0", "/models/..%2F..%2Fetc"]
)
def test_what_is_not_there_is_said_to_be_missing(pages: Pages, path: str) -> None:
    status, headers, text = pages.ask(path, Cookie=pages.cookie())
    assert status == 404
    assert headers["content-type"].startswith("text/")
    assert "etc/passwd" not in text


@pytest.mark.parametrize(
    ("figures", "bad"),
    [
        ({"failed": 1, "allowed_failures": 0, "devices": 3}, ["failed"]),
        ({"failed": 1, "allowed_failures": 1}, []),
        ({"failed": 0, "allowed_failures": 0, "undecided": 2}, ["undecided"]),
        ({"still_on_it": 1, "away": 5}, ["still on it"]),
        ({}, []),
    ],
)
def test_figures_that_spoke_against_going_on(figures: dict[str, int], bad: list[str]) -> None:
    assert [gate.name for gate in gates(figures) if gate.bad] == bad


@pytest.mark.parametrize(
    "query",
    ["", "of=AMOUNT", "of=AMOUNT&opened=1", "of=x&opened=nan", "of=%3Cscript%3E&opened=1e9"],
)
def test_a_field_that_is_not_there_is_said_to_be_missing(pages: Pages, query: str) -> None:
    status, _, text = pages.ask(f"/drift/cell?{query}", Cookie=pages.cookie())
    assert status == 400
    assert "there is no span" in text
    assert "<script>," not in text


def test_a_page_of_ten_thousand_devices_is_as_small_as_of_fifty(tmp_path: Path) -> None:
    paths = [
        "/",
        "/devices",
        "/devices?page=150&order=seen",
        "/devices?find=site%3Ds7",
        "/devices/crowd-00007",
    ]
    costs = {}
    for count in (60, 10_000):
        (tmp_path / str(count)).mkdir()
        with running_pages(tmp_path / str(count)) as pages:
            crowd(pages.database, count, NOW)
            crowd_rollout(pages.store, count, NOW)
            cookie = pages.cookie()
            pages.ask("/", Cookie=cookie)  # the monitor looks once, whoever comes next
            for path in paths:
                pages.statements.clear()
                status, _, text = pages.ask(path, Cookie=cookie)
                assert status == 200
                costs[count, path] = (len(text), len(pages.statements))
    for path in paths:
        size, asked = costs[10_000, path]
        assert size < 60_000
        assert asked <= 20
        assert asked <= costs[60, path][1] + 1


def test_the_server_itself_shows_them_with_its_devices_identities(tmp_path: Path) -> None:
    """`wherry serve` as it is started, its own token, a device that is enrolled and revoked."""
    with running_server(tmp_path / "data") as server:
        enrol(server, "till-1", site="paris")
        pages = Away(server.facts["url"])
        cookie = pages.cookie((server.data / "token").read_text())
        assert "never seen" in pages.ask("/devices", Cookie=cookie)[2]
        assert "good until" in pages.ask("/devices/till-1", Cookie=cookie)[2]
        server.client.post("devices/till-1/revoke", {})
        assert "revoked" in pages.ask("/devices/till-1", Cookie=cookie)[2]
        said = pages.ask("/audit?device=till-1", Cookie=cookie)[2]
        assert [said.count(what) for what in ("certificate given", "certificate revoked")] == [1, 1]
