"""The dashboard in a headless Chromium: models, machine, activity, sign-in, and what goes wrong.

Each test leaves screenshots in its temporary folder.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from tests.limits import LIMIT_S
from tests.process.browser import AXE, MARKS, PATIENCE_S, dashboard, in_browser
from tests.process.harness import free_port
from tests.process.real import endless_table, serving, started, write_config

if TYPE_CHECKING:
    from playwright import sync_api
else:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = MARKS

#: Every section that is of use to a person with the admin token.
SECTIONS = ["models", "machine", "activity", "logs", "hub", "playground", "chat", "config"]

#: A name that a careless page would run.
EVIL = "<img src=x onerror=\"document.title='run'\"> \N{LLAMA} </script>"

_EXITS = json.dumps(
    ["/bin/sh", "-c", "printf '%1000000s\\n' x; echo 'no such <b>option</b>'; exit 3"]
)

DEVICES = """
[scheduler]
policy = "memory"
[devices.big]
kind = "simulated"
memory_mib = 900
"""


def table(folder: Path, name: str, *lines: str) -> str:
    """Return the table of a model that is ready at once, and whose answers never end."""
    return endless_table(folder, name) + "".join(f"{line}\n" for line in lines)


async def look(
    steps: Callable[..., None], folder: Path, *tables: str, router: tuple[str, ...] = ()
) -> None:
    """Take *steps* in a browser at a router of its own."""
    with trio.fail_after(LIMIT_S):
        async with serving(write_config(folder, *tables, router=router)) as running:
            await in_browser(steps, folder, running.url)


def card(page: sync_api.Page, name: str) -> sync_api.Locator:
    """Return the card of a model."""
    return page.get_by_role("list", name="Models").get_by_role("listitem", name=name, exact=True)


def section(page: sync_api.Page, name: str) -> None:
    """Go to another section by its link."""
    page.get_by_role("navigation").get_by_role("link", name=name, exact=True).click()
    page.get_by_role("heading", name=name, level=1).wait_for()


@contextmanager
def stream(url: str, model: str) -> Iterator[None]:
    """Have an answer under way that does not end by itself."""
    body = {"model": model, "stream": True, "messages": []}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=PATIENCE_S):
        yield


# --- Models ----------------------------------------------------------------------------


def load_and_unload(folder: Path, url: str) -> None:
    """Load a model, use it, see that, unload it while it works."""
    with dashboard(folder, url) as page:
        page.goto(url)
        page.get_by_role("button", name="Load a", exact=True).focus()
        page.keyboard.press("Enter")
        card(page, "a").get_by_text("Ready").wait_for()
        with stream(url, "a"):
            card(page, "a").get_by_text("Working").wait_for()
            page.screenshot(path=folder / "working.png")
            page.get_by_role("button", name="Unload a", exact=True).click()
            page.get_by_role("button", name="Unload now: a").click()
            dialog = page.get_by_role("dialog")
            dialog.get_by_text("1 request will be cut").wait_for()
            dialog.get_by_role("button", name="Unload now").click()
            card(page, "a").get_by_text("Not loaded").wait_for()
        page.get_by_role("radio", name="Table").check()
        sync_api.expect(page.get_by_role("row", name=re.compile("^a Not loaded"))).to_be_visible()
        page.screenshot(path=folder / "table.png")


async def test_a_model_is_loaded_seen_at_work_and_unloaded(tmp_path) -> None:
    """By keyboard too; a model that works is cut only after a question."""
    await look(load_and_unload, tmp_path, table(tmp_path, "a"), table(tmp_path, "b"))


def keep_it(folder: Path, url: str) -> None:
    """Keep a model loaded, and no longer."""
    with dashboard(folder, url) as page:
        page.goto(url)
        page.get_by_role("button", name="Keep a loaded").click()
        card(page, "a").get_by_text("Ready").wait_for()
        assert "keep_loaded = true" in (folder / "router.toml").read_text()
        page.get_by_role("button", name="Let a be unloaded").click()
        page.get_by_role("button", name="Keep a loaded").wait_for()
        assert "keep_loaded" not in (folder / "router.toml").read_text()


async def test_a_model_is_kept_loaded(tmp_path) -> None:
    """The configuration file has it, so it holds after a restart."""
    await look(keep_it, tmp_path, table(tmp_path, "a"))


def change_settings(folder: Path, url: str) -> None:
    """Set a context and free arguments; what is wrong is said at its field."""
    with dashboard(folder, url) as page:
        page.goto(url)
        page.get_by_role("button", name="Settings of a", exact=True).click()
        context = page.get_by_label("Context, in tokens")
        context.fill("many")
        page.get_by_text("The context is a whole number").wait_for()
        sync_api.expect(page.get_by_role("button", name="Save")).to_be_disabled()
        context.fill("4096")
        page.get_by_label("Unload after, in seconds").fill("90")
        page.get_by_label("More arguments").fill("--alias 'two words' --flash-attn")
        page.screenshot(path=folder / "settings.png")
        page.get_by_role("button", name="Save").click()
        page.get_by_text(re.compile("^Saved")).wait_for()
        written = (folder / "router.toml").read_text()
        words = ["--ctx-size", "4096", "--alias", "two words", "--flash-attn"]
        assert f"args = {json.dumps(words)}" in written
        assert "ttl_s = 90" in written
        page.get_by_role("button", name="Settings of a", exact=True).click()
        sync_api.expect(context).to_have_value("4096")
        page.keyboard.press("Escape")
        opener = page.get_by_role("button", name="Settings of a", exact=True)
        sync_api.expect(opener).to_be_focused()
        opener.press("Enter")
        sync_api.expect(page.get_by_label("More arguments")).to_have_value(
            "--alias 'two words' --flash-attn"
        )


async def test_settings_of_a_model_are_changed(tmp_path) -> None:
    """What the dialog wrote, it reads again."""
    await look(change_settings, tmp_path, table(tmp_path, "a"))


def edit_twice(folder: Path, url: str) -> None:
    """Open the settings, change them elsewhere, save; then see what is there now."""
    with dashboard(folder, url, may_be=[409]) as page:
        page.goto(url)
        page.get_by_role("button", name="Settings of a", exact=True).click()
        page.get_by_label("Unload after, in seconds").fill("90")
        other = page.context.new_page()
        other.goto(url)
        other.get_by_role("button", name="Settings of a", exact=True).click()
        other.get_by_label("Unload after, in seconds").fill("30")
        other.get_by_role("button", name="Save").click()
        other.get_by_text(re.compile("^Saved")).wait_for()
        other.close()
        page.get_by_role("button", name="Save").click()
        page.get_by_text("The file was changed meanwhile.").wait_for()
        page.get_by_role("button", name="Show its settings").click()
        sync_api.expect(page.get_by_label("Unload after, in seconds")).to_have_value("30")
        assert "ttl_s = 30" in (folder / "router.toml").read_text()


async def test_two_tabs_with_one_setting_are_told(tmp_path) -> None:
    """The second one saves nothing, and can look at what the first one wrote."""
    await look(edit_twice, tmp_path, table(tmp_path, "a"))


def see_the_failure(folder: Path, url: str) -> None:
    """Load a model whose program ends with a line of a megabyte and one with HTML."""
    with dashboard(folder, url, may_be=[503]) as page:
        page.goto(url)
        page.get_by_role("button", name="Load bad", exact=True).click()
        page.get_by_role("button", name="Why it failed").click()
        dialog = page.get_by_role("dialog", name="Why bad failed")
        dialog.get_by_text("exited with code 3").wait_for()
        dialog.get_by_text("no such <b>option</b>").first.wait_for()
        page.screenshot(path=folder / "failure.png")
        assert len(dialog.inner_text()) < 20_000
        page.keyboard.press("Escape")
        sync_api.expect(dialog).to_have_count(0)


async def test_a_failure_is_explained(tmp_path) -> None:
    """With the last lines of output, cut and as text."""
    await look(see_the_failure, tmp_path, f"\n[models.bad]\nspawn.command = {_EXITS}\n")


def see_odd_names(folder: Path, url: str) -> None:
    """Look at a model with markup in its name in every section."""
    with dashboard(folder, url) as page:
        page.goto(f"{url}/ui/")
        page.get_by_role("heading", name=EVIL).wait_for()
        page.get_by_role("button", name=f"Load {EVIL}", exact=True).click()
        page.get_by_role("button", name=f"Unload {EVIL}", exact=True).wait_for()
        for name in SECTIONS:
            page.goto(f"{url}/ui/#/{name}")
            page.get_by_role("heading", level=1).wait_for()
        assert page.title() != "run"
        assert page.locator("main img").count() == 0


async def test_names_are_text(tmp_path) -> None:
    """Markup and emoji in a model's name are shown as they are."""
    name = json.dumps(EVIL, ensure_ascii=False)
    models = endless_table(tmp_path, "a").replace("[models.a]", f"[models.{name}]")
    await look(see_odd_names, tmp_path, models)


def scroll_through_many(folder: Path, url: str) -> None:
    """See some of 3,000 models, scroll to the end, find one; as cards and as a table."""
    with dashboard(folder, url) as page:
        page.goto(f"{url}/ui/")
        for view in ("Cards", "Table"):
            page.get_by_role("radio", name=view).check()
            page.get_by_title("model-0000", exact=True).wait_for()
            assert page.locator("main *").count() < 3000
            page.keyboard.press("End")
            page.get_by_title("model-2999", exact=True).wait_for()
            page.screenshot(path=folder / f"many-{view}.png")
            page.get_by_role("searchbox").fill("2345")
            page.get_by_title("model-2345", exact=True).wait_for()
            page.get_by_role("searchbox").fill("")


async def test_thousands_of_models_scroll(tmp_path) -> None:
    """Only those in view are in the page."""
    command = json.dumps([sys.executable, "-c", "", "$port"])
    tables = (f"[models.model-{n:04d}]\nspawn.command = {command}\n" for n in range(3000))
    await look(scroll_through_many, tmp_path, "\n" + "".join(tables))


def see_none(folder: Path, url: str) -> None:
    """Open a router without models."""
    with dashboard(folder, url) as page:
        page.goto(url)
        page.get_by_role("heading", name="No models yet").wait_for()
        page.get_by_role("link", name="Get models").last.click()
        page.get_by_role("heading", name="Get models", level=1).wait_for()


async def test_a_router_without_models_says_how_to_get_some(tmp_path) -> None:
    """The empty page leads to the section for that."""
    await look(see_none, tmp_path)


# --- Machine and activity --------------------------------------------------------------


def see_the_memory(folder: Path, url: str) -> None:
    """See a device fill, and the load in the timeline."""
    with dashboard(folder, url) as page:
        page.goto(f"{url}/ui/#/machine")
        device = page.get_by_role("article", name="big")
        device.get_by_text("900 MiB free of 900 MiB").wait_for()
        httpx.post(f"{url}/models/load", json={"model": "a"}, timeout=PATIENCE_S)
        device.get_by_text("500 MiB free of 900 MiB").wait_for()
        device.get_by_role("img", name=re.compile("^big: a 400 MiB")).wait_for()
        span = page.get_by_role("group", name="Which model was loaded when").get_by_role("button")
        span.wait_for()
        span.focus()
        page.get_by_role("tooltip").get_by_text("still here").wait_for()
        page.screenshot(path=folder / "machine.png")
        httpx.post(f"{url}/models/unload", json={"model": "a"}, timeout=PATIENCE_S)
        device.get_by_text("900 MiB free of 900 MiB").wait_for()


async def test_memory_and_loads_are_seen(tmp_path) -> None:
    """As a bar of the device, and as a span of the last hour."""
    models = table(tmp_path, "a", "memory_mib = { big = 400 }", 'devices = ["big"]')
    await look(see_the_memory, tmp_path, DEVICES, models)


def see_requests(folder: Path, url: str) -> None:
    """See a request run, cancel it, look at it; see one that is refused."""
    with dashboard(folder, url) as page:
        page.goto(f"{url}/ui/#/activity")
        page.get_by_role("heading", name="No requests yet").wait_for()
        with stream(url, "a"):
            row = page.get_by_role("row", name=re.compile("Running a "))
            row.wait_for()
            page.screenshot(path=folder / "activity.png")
            row.get_by_role("button", name=re.compile("^Cancel request")).click()
            page.get_by_role("row", name=re.compile("Cut a ")).wait_for()
        httpx.post(f"{url}/v1/chat/completions", json={"model": "nosuch"}, timeout=PATIENCE_S)
        page.get_by_role("row", name=re.compile("Refused nosuch")).wait_for()
        page.get_by_role("searchbox").fill("nosuch")
        sync_api.expect(page.get_by_role("row")).to_have_count(2)
        page.get_by_role("button", name=re.compile("^Details of request")).click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("model_not_found").wait_for()
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        dialog.get_by_role("button", name="Copy as curl").click()
        page.get_by_text("Copied.").wait_for()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith(f"curl -N '{url}/v1/chat/completions'")
        page.reload()
        page.get_by_role("row", name=re.compile("Cut a ")).wait_for()


async def test_requests_are_seen_live_and_past(tmp_path) -> None:
    """A running one can be cancelled, each one looked at, and sent again."""
    await look(see_requests, tmp_path, table(tmp_path, "a"))


# --- Sign-in, and a router that goes away ----------------------------------------------


def sign_in_and_out(folder: Path, url: str) -> None:
    """Give a wrong secret and the token; lose the session; sign in again where one was."""
    with dashboard(folder, url, may_be=[401]) as page:
        page.goto(f"{url}/ui/#/machine")
        secret = page.get_by_label("Admin token or API key")
        page.screenshot(path=folder / "sign-in.png")
        secret.fill("wrong-0123456789")
        secret.press("Enter")
        page.get_by_text("This is neither the admin token nor an API key").wait_for()
        secret.fill("token-0123456789")
        secret.press("Enter")
        page.get_by_role("heading", name="The last hour").wait_for()
        section(page, "Models")
        load = page.get_by_role("button", name="Load a", exact=True)
        load.wait_for()
        page.context.clear_cookies()  # as after twelve idle hours
        load.click()
        secret.fill("token-0123456789")
        secret.press("Enter")
        load.wait_for()
        page.get_by_role("button", name="Sign out").click()
        secret.wait_for()
        page.reload()
        secret.wait_for()


async def test_a_person_signs_in(tmp_path) -> None:
    """A session that is over leads to the sign-in, and back to the same section."""
    keys = '\n[api_keys.me]\nkey = "right-key-0123456789"\n'
    router = ('admin_token = "token-0123456789"',)
    await look(sign_in_and_out, tmp_path, keys, table(tmp_path, "a"), router=router)


def use_a_key(folder: Path, url: str) -> None:
    """Sign in with an API key: there are the models, and nothing of the machine."""
    with dashboard(folder, url) as page:
        page.goto(url)
        secret = page.get_by_label("Admin token or API key")
        secret.fill("right-key-0123456789")
        secret.press("Enter")
        page.get_by_role("button", name="Load a", exact=True).click()
        card(page, "a").get_by_text("Ready").wait_for()
        sync_api.expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(
            ["Models", "Playground", "Chat UI"]
        )
        page.goto(f"{url}/ui/#/config")
        page.get_by_text("This section needs the admin token").wait_for()


async def test_an_api_key_is_for_models_only(tmp_path) -> None:
    """What needs more rights says so."""
    keys = '\n[api_keys.me]\nkey = "right-key-0123456789"\n'
    await look(use_a_key, tmp_path, keys, table(tmp_path, "a"))


async def test_a_restart_is_survived(tmp_path) -> None:
    """The page says that the router is gone, fails each action with a sentence, and recovers."""
    config = write_config(tmp_path, table(tmp_path, "a"), table(tmp_path, "b"))
    port = str(free_port())
    gone, back, seen = trio.Event(), trio.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def steps(folder: Path, url: str) -> None:
        with dashboard(folder, url) as page:
            page.goto(url)
            page.get_by_role("button", name="Load a", exact=True).wait_for()
            token.run_sync_soon(gone.set)
            page.get_by_text(re.compile("^(No connection|The router is stopping)")).wait_for()
            page.screenshot(path=folder / "gone.png")
            page.get_by_role("button", name="Load a", exact=True).click()
            page.get_by_text("The router does not answer").first.wait_for()
            page.get_by_role("button", name="Keep a loaded").click()
            token.run_sync_soon(back.set)
            page.get_by_text("The router was restarted").wait_for()
            sync_api.expect(page.get_by_text(re.compile("^No connection"))).to_have_count(0)
            page.get_by_role("button", name="Load b", exact=True).click()
            card(page, "b").get_by_text("Ready").wait_for()
        token.run_sync_soon(seen.set)

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            async with started(config, "--port", port) as router:
                url = (await router.event("router.ready"))["urls"][0]
                nursery.start_soon(in_browser, steps, tmp_path, url)
                await gone.wait()
                router.signal(signal.SIGTERM)
                await router.process.wait()
            await back.wait()
            async with started(config, "--port", port):
                await seen.wait()


# --- All sections ----------------------------------------------------------------------


def look_around(folder: Path, url: str) -> None:
    """Open every section in light, dark and narrow; nothing sticks out, nothing complains."""
    nothing = {"query": "", "repositories": []}
    with dashboard(folder, url) as page:
        # The hub is on the internet.
        page.route("**/admin/hub/search?*", lambda route: route.fulfill(json=nothing))
        for name in SECTIONS:
            page.goto(f"{url}/ui/#/{name}")
            page.get_by_role("heading", level=1).wait_for()
            page.set_viewport_size({"width": 1280, "height": 860})
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                page.screenshot(path=folder / f"{name}-{scheme}.png")
                check_accessibility(page, f"{name} in {scheme}")
            page.set_viewport_size({"width": 360, "height": 740})
            page.screenshot(path=folder / f"{name}-narrow.png")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, name


#: A name as those of models from the hub are.
LONG = "ggml-org-gemma-3-4b-it-GGUF-Q4_K_M"


def measure_tables(folder: Path, url: str) -> None:
    """See the tables of models and requests, each at three widths."""
    refused = {"model": "a-name-of-thirty-characters-or-so", "messages": []}
    httpx.post(f"{url}/v1/chat/completions", json=refused, timeout=PATIENCE_S)
    live = {"model": LONG, "messages": [], "stream": True}
    asked = httpx.stream("POST", f"{url}/v1/chat/completions", json=live, timeout=PATIENCE_S)
    with asked, dashboard(folder, url) as page:
        page.goto(f"{url}/ui/")
        page.get_by_role("radio", name="Table").check()
        for name in ("models", "activity"):
            page.goto(f"{url}/ui/#/{name}")
            table = page.locator(".table-frame")
            table.wait_for()
            for width in (1280, 800, 360):
                page.set_viewport_size({"width": width, "height": 740})
                page.screenshot(path=folder / f"{name}-table-{width}.png")
                hidden = table.evaluate("(each) => each.scrollWidth - each.clientWidth")
                assert hidden == 0, (name, width)


async def test_tables_need_no_scrolling_sideways(tmp_path) -> None:
    """Where there is no room, the columns that matter least are left out."""
    models = table(tmp_path, "a"), table(tmp_path, "b"), table(tmp_path, LONG)
    await look(measure_tables, tmp_path, *models)


def check_accessibility(page: sync_api.Page, what: str) -> None:
    """Run axe-core on the page, if it is here."""
    if AXE is None:
        return
    page.evaluate(AXE.read_text("utf-8"))
    found: dict[str, Any] = page.evaluate("axe.run()")
    said = [
        f"{what}: {each['help']}: {[node['html'] for node in each['nodes']]}"
        for each in found["violations"]
    ]
    assert not said, "\n".join(said)


async def test_every_section_is_fit_to_be_seen(tmp_path) -> None:
    """In both palettes, at 360 pixels, by axe-core's rules, without an error in the console."""
    models = table(tmp_path, "a"), table(tmp_path, "b", 'aliases = ["second"]')
    await look(look_around, tmp_path, DEVICES, *models)


def weigh(folder: Path, url: str) -> None:
    """Count the bytes of the first view."""
    with dashboard(folder, url) as page:
        finished: list[sync_api.Request] = []
        page.on("requestfinished", lambda request: finished.append(request))  # noqa: PLW0108 -- playwright takes no builtin
        page.goto(url)
        page.get_by_role("button", name="Load a", exact=True).wait_for()
        sizes = {request.url: sum(request.sizes().values()) for request in finished}  # type: ignore[arg-type]  # a TypedDict of int
        assert len(sizes) > 10
        assert sum(sizes.values()) < 100_000, sizes


async def test_the_first_view_is_light(tmp_path) -> None:
    """Less than 100 kB on the wire, heads of requests and answers included."""
    await look(weigh, tmp_path, table(tmp_path, "a"))
