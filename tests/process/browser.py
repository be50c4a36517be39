"""A headless Chromium for tests of pages. Without it, or without playwright, they are skipped."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.limits import LIMIT_S

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

if TYPE_CHECKING:
    from playwright import sync_api
else:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

#: Marks of a module whose tests need the browser.
MARKS = [
    pytest.mark.process,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

#: axe-core, which checks accessibility; None where it is not installed. ``.ci/run`` installs it.
_AXE_FOLDER = Path(os.environ.get("AXE_CORE") or "node_modules/axe-core")
AXE = path if (path := _AXE_FOLDER / "axe.min.js").exists() else None

#: Kinds of messages on the console that must not come up.
_COMPLAINTS = ("error", "warning")

#: Longest wait for something to appear, in seconds.
PATIENCE_S = LIMIT_S / 2


@contextmanager
def opened(
    folder: Path, url: str, *, may_be: Sequence[int] = (), also: Sequence[str] = ()
) -> Iterator[sync_api.Page]:
    """Open a browser that reaches nothing but this machine; it must not even try to.

    Args:
        folder: For its files.
        url: The only server that it may ask.
        may_be: Statuses of failures that belong to the test.
        also: Further origins that it may ask.
    """
    asked: set[str] = set()
    errors: list[str] = []
    complaints: list[str] = []
    refused: set[str] = set()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
            env={"HOME": str(folder)},
        )
        context = browser.new_context(viewport={"width": 1000, "height": 720})
        context.set_default_timeout(PATIENCE_S * 1000)
        context.on("request", lambda request: asked.add(request.url))
        context.on(
            "response",
            lambda r: refused.add(r.url) if r.status >= 400 and r.status not in may_be else None,
        )
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        try:
            yield page
        except (AssertionError, sync_api.Error):
            page.screenshot(path=folder / "failure.png")
            raise
        browser.close()
    assert not errors
    # In the middle of a swap nobody has the files.
    unexpected = [one for one in refused if re.search("/v1/|/models|/props|/slots|/tools", one)]
    assert unexpected == [], unexpected
    assert not [text for text in complaints if "Tools" in text]
    assert not [one for one in asked if not one.startswith((url, *also, "data:", "blob:"))]


@contextmanager
def dashboard(folder: Path, url: str, *, may_be: Sequence[int] = ()) -> Iterator[sync_api.Page]:
    """Open a browser for the dashboard at *url*; the console must stay empty.

    Args:
        folder: For its files.
        url: The only server that it may ask.
        may_be: Statuses of failures that belong to the test.
    """
    said: list[str] = []

    def listen(page: sync_api.Page) -> None:
        page.on("console", lambda m: said.append(m.text) if m.type in _COMPLAINTS else None)

    with opened(folder, url, may_be=may_be) as page:
        listen(page)
        page.context.on("page", listen)
        yield page
    expected = [f"status of {status} " for status in may_be]
    # The latter on a machine that is busy.
    expected += ["ERR_CONNECTION_REFUSED", "was preloaded using link"]
    unexpected = [text for text in said if not any(part in text for part in expected)]
    assert unexpected == [], unexpected


async def in_browser(steps: Callable[..., None], folder: Path, url: str) -> None:
    """Take *steps*, which block, in a thread."""
    await trio.to_thread.run_sync(partial(steps, folder, url))
