"""A browser without a window, skipped where there is none; a module that needs it says `pytest_plugins`."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # not installed everywhere
    from playwright.sync_api import Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOOK_SECONDS = 60  # for a page to show something: it may wait for a busy server


@pytest.fixture
def page() -> Iterator["Page"]:
    """An empty page of a fresh browser; whatever is looked for on it may take LOOK_SECONDS to appear."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if find_spec("playwright") is None:
        pytest.skip("playwright is not installed (pip install 'longtail[dev]')")
    if program is None:
        pytest.skip("Chromium is not installed (Debian: chromium)")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=1000 * LOOK_SECONDS)
    rights = ["--no-sandbox"] if os.geteuid() == 0 else []  # as root Chromium starts in no other way
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=rights)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(1000 * LOOK_SECONDS)
        yield page
        browser.close()
