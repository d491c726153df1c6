"""The page, open in a browser."""

import pytest

from support.page import EAR, WAIT, Tab, open_chromium


@pytest.fixture(scope="module")
def chromium():
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def open_page(chromium, server):
    """Opens the page; at the end, nothing was complained of, and nobody else was asked."""
    tabs = []

    def open_one(url=server.url, *, before="", **options):
        context = chromium.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        context.set_default_timeout(WAIT)
        tab = Tab(context.new_page())
        tabs.append((url, tab))
        tab.page.add_init_script(EAR + before)
        tab.page.goto(url)
        tab.page.locator("#server", has_text="Ready").wait_for()
        return tab.page

    yield open_one
    for url, tab in tabs:
        tab.page.context.close()
        assert tab.complaints == []
        assert all(asked.startswith((url, "blob:", "data:")) for asked in tab.requests)


@pytest.fixture
def page(open_page):
    return open_page()
