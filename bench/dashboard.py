"""Cost of the dashboard: bytes, first paint, and the idle processor time of router and page.

A router with hundreds of models runs as a process of its own, and a headless Chromium opens the
page in a fresh profile. Bytes are those that were sent. The processor time is that of the router
and of the browser's page process, while nobody does anything, with the page in view.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench import arguments, versions
from bench.programs import HOST, child, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

#: Goals: bytes of the first view, milliseconds to its first paint, and parts of a core.
BYTES_GOAL: Final = 100_000
PAINT_GOAL_MS: Final = 1000.0
IDLE_GOAL: Final = 0.01

#: Longest gap between two frames while the list of models is scrolled, in milliseconds.
FRAME_GOAL_MS: Final = 100.0

_PAINTED: Final = """
() => {
  const seen = performance.getEntriesByType("resource")
    .concat(performance.getEntriesByType("navigation"));
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  return {
    bytes: seen.filter((entry) => !entry.name.includes("/admin/"))
      .reduce((sum, entry) => sum + entry.transferSize, 0),
    paint_ms: paint ? paint.startTime : null,
  };
}
"""

_SCROLLED: Final = """
async () => {
  let worst = 0, last = performance.now();
  for (let step = 0; step < 120; step += 1) {
    window.scrollBy(0, 150);
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    worst = Math.max(worst, now - last);
    last = now;
  }
  return worst;
}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--models", type=arguments.count, default=300, help="models of the router")
    parser.add_argument("--idle-s", type=arguments.count, default=20, help="seconds of idleness")


def run(options: argparse.Namespace) -> int:
    """Print a table; return 1 if a goal was missed."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 -- of the extra 'test'

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        print("bench dashboard: Chromium is not installed", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, _router(Path(folder), options.models) as found:
        url, router = found
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, env={"HOME": folder})
            page = browser.new_page(viewport={"width": 1280, "height": 860})
            figures = _measured(page, url, router, options.idle_s)
            browser.close()
    return _report(figures, options.models)


@contextlib.contextmanager
def _router(folder: Path, models: int) -> Iterator[tuple[str, int]]:
    """Run a router with *models* that nobody asks for; yield its address and its process id."""
    port = free_port()
    lines = ["[router]", f"port = {port}", "scan_caches = false", 'state_dir = "state"']
    for index in range(models):
        lines += [f'[models."vendor/model-{index}:Q4_K_M"]', 'spawn.command = ["sleep", "$port"]']
    config = folder / "router.toml"
    config.write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "llama_router", "serve", "--config", str(config)]
    url = f"http://{HOST}:{port}"
    with child(command, folder / "log") as process:
        _wait_until_ready(url)
        yield url, process.pid


def _wait_until_ready(url: str) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=1):
            return
        time.sleep(0.1)


def _measured(page: Page, url: str, router: int, idle_s: float) -> dict[str, float]:
    page.goto(f"{url}/ui/")
    page.get_by_role("heading", name="Models").wait_for()
    page.get_by_text("vendor/model-0:Q4_K_M").first.wait_for()
    figures: dict[str, Any] = page.evaluate(_PAINTED)
    time.sleep(2)  # the first view settles
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    begun_s, router_s, page_s = time.monotonic(), _cpu_s(router), _page_s(session)
    time.sleep(idle_s)
    passed_s = time.monotonic() - begun_s
    figures["router_idle"] = (_cpu_s(router) - router_s) / passed_s
    figures["page_idle"] = (_page_s(session) - page_s) / passed_s
    figures["frame_ms"] = page.evaluate(_SCROLLED)
    return {name: float(value or 0) for name, value in figures.items()}


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process, in seconds. Source: proc(5), ``/proc/pid/stat``."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _page_s(session: Any) -> float:  # noqa: ANN401 -- playwright's CDPSession
    """Return how long the page's main thread has worked, in seconds."""
    found = session.send("Performance.getMetrics")["metrics"]
    return float(next(each["value"] for each in found if each["name"] == "TaskDuration"))


def _report(figures: dict[str, float], models: int) -> int:
    print("\n".join(versions.lines()))
    print(f"{models} models, one page in view")
    rows = (
        ("bytes of the first view", figures["bytes"], BYTES_GOAL, "{:,.0f}"),
        ("first paint (ms)", figures["paint_ms"], PAINT_GOAL_MS, "{:.0f}"),
        ("router while idle (of a core)", figures["router_idle"], IDLE_GOAL, "{:.2%}"),
        ("page while idle (of a core)", figures["page_idle"], IDLE_GOAL, "{:.2%}"),
        ("longest frame while scrolling (ms)", figures["frame_ms"], FRAME_GOAL_MS, "{:.0f}"),
    )
    missed = False
    for name, value, goal, form in rows:
        met = value <= goal
        missed |= not met
        shown, limit = form.format(value), form.format(goal)
        print(f"{name:<36}{shown:>10}   goal {limit:>8}: {'met' if met else 'missed'}")
    return int(missed)
