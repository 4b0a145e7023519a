"""The server's pages in a real Chromium: looked at, walked through by keyboard, on a phone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import html5lib
import pytest
from playwright.sync_api import Browser, expect
from support_web import (
    DAY,
    MADE,
    MONDAY,
    MOVED,
    TOKEN,
    Pages,
    fill,
    finish,
    running_browser,
    running_pages,
    tab,
)

NOW = time.time()
LAST = MONDAY + 15 * DAY
CELL = f"/drift/cell?of=AMOUNT&opened={LAST:.0f}&days=28"
PATHS = (
    "/",
    "/devices",
    f"/devices/{MOVED}",
    "/devices/till-5",
    "/devices/till-new",
    "/drift",
    "/drift?days=14",
    CELL,
    "/rollouts",
    "/rollouts/r1-bad",
    "/rollouts/r2-good",
    "/models",
    f"/models/{MADE.digest}",
    "/audit",
    "/audit?device=till-2",
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    with running_pages(tmp_path_factory.mktemp("pages")) as found:
        fill(found.store, NOW)
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


def test_every_page_is_quiet_fits_a_phone_and_asks_nobody_else(
    pages: Pages, browser: Browser
) -> None:
    with tab(browser, pages.url, width=360, height=740, color_scheme="dark") as found:
        found.open("/devices")  # not signed in yet
        assert found.overflow == 0
        found.sign_in()
        for path in PATHS:
            page = found.open(path)
            assert found.overflow == 0, path
            assert page.locator("h1").count() == 1
            ids = page.evaluate("[...document.querySelectorAll('[id]')].map(x => x.id)")
            assert len(ids) == len(set(ids))
            unnamed = "svg:not([aria-label]), th:not([scope]), .scroll:not([tabindex])"
            assert page.locator(unnamed).count() == 0
        found.check()


def test_pages_are_valid_html(pages: Pages) -> None:
    cookie = pages.cookie()
    for path in ("/sign-in", *PATHS):
        text = pages.ask(path, Cookie="" if path == "/sign-in" else cookie)[2]
        html5lib.HTMLParser(strict=True).parse(text)  # raises on the first error


def test_by_keyboard_alone_from_the_way_in_to_a_device(pages: Pages, browser: Browser) -> None:
    with tab(browser, pages.url) as found:
        page = found.open("/devices")
        page.keyboard.type("wrong")  # the field has the focus
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not this server's token")
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        expect(page).to_have_url(found.url + "/devices")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.get_by_label("Id or label")).to_be_focused()
        page.keyboard.type("site=lyon till-3")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("1 to 1 of 1 devices")
        link = page.get_by_role("link", name=MOVED)
        for _ in range(20):
            page.keyboard.press("Tab")
            if link.evaluate("item => item === document.activeElement"):
                break
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(MOVED)
        expect(page.get_by_role("img", name="AMOUNT")).to_be_visible()
        failed = [said for said in found.complaints if "403" not in said]  # of the wrong token
        assert failed == []


def test_from_a_field_of_the_heat_map_to_its_histograms_by_arrow_keys(
    pages: Pages, browser: Browser
) -> None:
    with tab(browser, pages.url) as found:
        found.sign_in()
        page = found.open("/drift")
        fields = page.locator("table[data-grid] td a")
        assert fields.count() == 6 * 16  # features, scores and flags; days
        assert page.locator("table[data-grid] td a:not([tabindex='-1'])").count() == 1
        first = page.locator("table[data-grid] tbody tr").first
        expect(first.get_by_role("rowheader")).to_have_text("AMOUNT")  # the gravest
        first.locator("a").last.focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("AMOUNT, 2018-08-07")
        expect(page.get_by_role("img", name="AMOUNT")).to_be_visible()
        table = page.get_by_role("region", name="Then and now")
        shares = [row.split("\t") for row in table.locator("tbody").inner_text().splitlines()]
        assert len(shares) == 10
        for place in (1, 2):
            assert abs(sum(float(row[place].rstrip(" %")) for row in shares) - 100) < 1
        assert abs(float(shares[-1][3])) > 5  # one till of six pays four times as much
        page.get_by_role("link", name="Span before").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("AMOUNT, 2018-08-06")
        found.check()


def test_a_rollout_says_what_each_step_was_decided_by(pages: Pages, browser: Browser) -> None:
    with tab(browser, pages.url) as found:
        found.sign_in()
        page = found.open("/rollouts")
        page.get_by_role("link", name="r1-bad").click()
        steps = page.locator(".timeline > li")
        said = [
            text.split(" after ")[0] for text in steps.locator("p:first-child").all_inner_texts()
        ]
        assert [text.strip("\u25b2 ") for text in said[:3]] == ["reverted", "reverting", "aborted"]
        expect(steps.nth(2).locator("li.act")).to_contain_text("failed 1 of 0 allowed")
        expect(page.get_by_role("row", name="till-1")).to_contain_text("P01")
        expect(page.get_by_role("img", name="Devices")).to_be_visible()
        found.check()


def test_a_model_has_its_card_and_nothing_of_it_is_more_than_text(
    pages: Pages, browser: Browser
) -> None:
    with tab(browser, pages.url) as found:
        found.sign_in()
        page = found.open("/")
        page.get_by_role("link", name="fraud 1.0.0").last.click()
        card = page.get_by_role("region", name="Model card")
        expect(card.get_by_role("cell", name="0.9")).to_be_visible()
        expect(card).to_contain_text("<script>alert(1)</script>")
        assert card.locator("a, img, script").count() == 0
        expect(page.get_by_role("row", name="KIND one")).to_contain_text("one of 3")
        expect(page.get_by_role("img", name="Scores, all devices")).to_be_visible()
        found.check()


def test_a_rollout_goes_on_under_ones_eyes_until_it_has_ended(
    tmp_path: Path, browser: Browser
) -> None:
    with running_pages(tmp_path) as pages, tab(browser, pages.url) as found:
        fill(pages.store, NOW, days=1)
        found.sign_in()
        page = found.open("/rollouts/r2-good")
        expect(page.get_by_text("1 of 6 devices settled")).to_be_visible()
        finish(pages.store, "r2-good", time.time())
        expect(page.get_by_text("6 of 6 devices settled")).to_be_visible(timeout=30_000)
        expect(page.locator(".timeline > li").first).to_contain_text("5 committed and healthy")
        expect(page.locator("[data-live]")).to_have_count(0)  # and asks no more
        found.check()


def test_what_was_done_is_found_by_kind_and_device(pages: Pages, browser: Browser) -> None:
    with tab(browser, pages.url) as found:
        page = found.sign_in()
        page.get_by_role("link", name="Audit").click()
        page.get_by_role("combobox", name="What").select_option("refusals")
        page.get_by_label("Device").fill("till-2")
        page.get_by_role("button", name="Show").click()
        rows = page.locator("tbody tr")
        expect(rows).to_have_count(1)
        expect(rows.first).to_contain_text("not taken: G02")
        expect(page.get_by_role("combobox", name="What")).to_have_value("refusals")
        found.check()


def test_signing_out_ends_it(pages: Pages, browser: Browser) -> None:
    with tab(browser, pages.url) as found:
        page = found.sign_in()
        assert page.evaluate("document.cookie") == ""  # no script reads it
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        found.open("/devices")
        expect(page.get_by_label("Token")).to_be_visible()
        found.check()


def test_without_scripts_all_is_there(pages: Pages, browser: Browser) -> None:
    with tab(browser, pages.url, java_script_enabled=False) as found:
        page = found.sign_in()
        expect(page.get_by_text("of 7 online")).to_be_visible()
        page.get_by_role("link", name=MOVED).first.click()
        expect(page.get_by_role("heading", level=1)).to_have_text(MOVED)
        found.check()
