"""What a person sees: the start page and llama.cpp's chat UI, in a headless Chromium.

Each test leaves screenshots in its temporary folder.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from tests.limits import LIMIT_S
from tests.process.real import chat, make_models, model_table, serving, write_config

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
if TYPE_CHECKING:
    from playwright import sync_api
else:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.process,
    pytest.mark.embedded,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

#: Longest wait for something to appear, in seconds.
PATIENCE_S = LIMIT_S / 2

_NONE_RUNS = """
async () => (await (await fetch("/v1/models")).json()).data
  .every((model) => model.status.value === "unloaded")
"""


#: A backend that says one word more each time that it is asked at ``/step``.
_STEPPING = """
import http.server, json, sys, threading

WORDS = ["first ", "second ", "third"]
steps, moved = 0, threading.Condition()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        found = self.path == "/health"
        self.send_response(200 if found else 404)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self):
        global steps
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        if self.path == "/step":
            with moved:
                steps += 1
                moved.notify_all()
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number, word in enumerate(WORDS):
            with moved:
                moved.wait_for(lambda: steps >= number)
            self.say({"content": word}, None)
        self.say({}, "stop")
        self.event("[DONE]")
        self.wfile.write(b"0\\r\\n\\r\\n")

    def say(self, delta, reason):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        document = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "slow"}
        self.event(json.dumps({**document, "choices": [choice]}))

    def event(self, data):
        event = f"data: {data}\\n\\n".encode()
        self.wfile.write(b"%x\\r\\n%b\\r\\n" % (len(event), event))

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@contextmanager
def opened(folder: Path, url: str, *, may_be: Sequence[int] = ()) -> Iterator[sync_api.Page]:
    """Open a browser that reaches nothing but this machine; it must not even try to.

    Args:
        folder: For its files.
        url: The only server that it may ask.
        may_be: Statuses of failures that belong to the test.
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
    # "/tools" says that there are none; in the middle of a swap nobody has the files.
    assert not [one for one in refused if re.search("/v1/|/models|/props|/slots", one)]
    assert not [text for text in complaints if "Tools" in text]
    assert not [one for one in asked if not one.startswith((url, "data:", "blob:"))]


async def in_browser(steps: Callable[..., None], folder: Path, url: str) -> None:
    """Take *steps*, which block, in a thread."""
    await trio.to_thread.run_sync(partial(steps, folder, url))


@pytest.fixture
def config(tmp_path, tmp_path_factory) -> Path:
    """Two models that take turns, with notices, and one that cannot be started."""
    folder = make_models(tmp_path_factory)
    tables = [model_table(folder, name, args=["--predict", "48"]) for name in "ab"]
    broken = model_table(folder, "broken", file="a", args=["--no-such-option"])
    return write_config(tmp_path, *tables, broken, router=["notify_model_swap = true"])


def message_box(page: sync_api.Page) -> sync_api.Locator:
    """Return where a person types."""
    return page.get_by_role("textbox", name="Type a message")


def say(page: sync_api.Page, text: str) -> sync_api.Locator:
    """Send *text*; return the group of the answer once it is complete."""
    answers = page.get_by_role("group", name="Assistant message")
    before = answers.count()
    message_box(page).fill(text)
    message_box(page).press("Enter")
    answer = answers.nth(before)
    answer.get_by_role("button", name="Regenerate").wait_for()
    page.locator("form").get_by_role("button", name="Send").first.wait_for()  # not "Stop"
    return answer


def words_of(answer: sync_api.Locator) -> str:
    """Return what a model said."""
    return answer.get_by_role("paragraph").last.inner_text()


def chat_and_swap(folder: Path, url: str) -> None:
    """Choose a, talk, choose b, talk; then somebody else needs a, and b comes back."""
    with opened(folder, url) as page:
        page.goto(url)
        page.get_by_role("button", name="Start a", exact=True).click()
        with page.expect_response("**/v1/chat/completions") as answered:
            answer = say(page, "Hello")
        assert answered.value.headers["content-type"] == "text/event-stream"
        page.screenshot(path=folder / "answer.png")
        assert len(words_of(answer).split()) > 20
        menu = page.locator("form").get_by_role("button", name="a", exact=True)
        menu.click()
        page.get_by_role("option", name=re.compile("^b ")).wait_for()
        page.screenshot(path=folder / "menu.png")
        page.get_by_role("option", name=re.compile("^b ")).click()
        page.locator("form").get_by_role("button", name="b", exact=True).wait_for()
        answer = say(page, "And you?")
        assert answer.get_by_role("button", name="b", exact=True).count() == 1
        asked = httpx.post(f"{url}/v1/chat/completions", json=chat("a"), timeout=PATIENCE_S)
        assert asked.json()["model"] == "a"
        answer = say(page, "Still there?")
        answer.get_by_role("button", name=re.compile("Reasoning")).click()
        notices = answer.get_by_text(re.compile("Loading model 'b'"))
        notices.wait_for()
        page.screenshot(path=folder / "notices.png")
        said = notices.inner_text()
        assert "Unloading model 'a'" in said
        assert "Model 'b' is ready." in said
        assert answer.get_by_role("button", name="b", exact=True).count() == 1
        assert len(words_of(answer).split()) > 20


def choose(page: sync_api.Page, now: str, wanted: str) -> None:
    """Choose the model *wanted* in the menu, which shows *now*."""
    page.locator("form").get_by_role("button", name=now, exact=True).click()
    page.get_by_role("option").filter(has=page.get_by_title(wanted, exact=True)).click()
    page.get_by_role("option").first.wait_for(state="hidden")


def keep_the_preset(folder: Path, url: str) -> None:
    """Choose a preset and talk; then open the conversation once more, and go on."""
    asked: list[str] = []

    def note(request: sync_api.Request) -> None:
        if request.url.endswith("/v1/chat/completions"):
            asked.append(json.loads(request.post_data or "{}")["model"])

    with opened(folder, url) as page:
        page.goto(url)
        page.on("request", note)
        page.get_by_role("button", name="Start a", exact=True).click()
        message_box(page).wait_for()
        choose(page, "a", "a:fast")
        assert len(words_of(say(page, "Hello")).split()) > 20
        page.screenshot(path=folder / "preset.png")
        say(page, "Are you still the same?")
        page.reload()
        page.get_by_role("group", name="Assistant message").nth(1).wait_for()
        say(page, "And now?")
        assert len(asked) >= 3
        assert set(asked) == {"a:fast"}


def watch_it_grow(folder: Path, url: str) -> None:
    """Talk to a backend that says each word only when it is told to."""
    with opened(folder, url, may_be=[404]) as page:
        page.goto(url)
        page.get_by_role("button", name="Start a", exact=True).click()
        message_box(page).wait_for()
        choose(page, "a", "slow")
        message_box(page).fill("Slowly, please")
        message_box(page).press("Enter")
        answer = page.get_by_role("group", name="Assistant message")
        for said in ("first", "first second", "first second third"):
            answer.get_by_text(said, exact=True).wait_for()  # nothing behind it was sent yet
            httpx.post(f"{url}/upstream/slow/step", timeout=PATIENCE_S).raise_for_status()
        answer.get_by_role("button", name="Regenerate").wait_for()
        assert words_of(answer) == "first second third"


def start_from_the_page(folder: Path, url: str) -> None:
    """See the models, one that fails, and one that works; by keyboard."""
    with opened(folder, url) as page:
        page.goto(url)
        assert page.title() == "llama-router"
        models = page.get_by_role("list", name="Models").get_by_role("listitem")
        sync_api.expect(models).to_have_count(3, timeout=PATIENCE_S * 1000)
        page.screenshot(path=folder / "start.png")
        page.emulate_media(color_scheme="dark")
        page.screenshot(path=folder / "start-dark.png")
        page.get_by_role("button", name="Start broken").focus()
        page.keyboard.press("Enter")
        page.get_by_text("broken could not be started").wait_for()
        page.get_by_text("Could not be started", exact=True).wait_for()
        page.screenshot(path=folder / "failed.png")
        page.get_by_role("button", name="Start b", exact=True).focus()
        page.keyboard.press("Space")
        message_box(page).wait_for()
        page.locator("form").get_by_role("button", name="b", exact=True).wait_for()
        page.screenshot(path=folder / "arrived.png")


def come_back_later(folder: Path, url: str) -> None:
    """Open the UI, let its service worker settle, then unload its backend and open it again."""
    with opened(folder, url) as page:
        page.goto(url)
        message_box(page).wait_for()
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        httpx.post(f"{url}/models/unload", json={"model": "b"}, timeout=PATIENCE_S)
        page.wait_for_function(_NONE_RUNS)
        page.goto(url)
        page.get_by_role("button", name="Start b", exact=True).wait_for()


def give_the_secrets(folder: Path, url: str) -> None:
    """Give a wrong key, the key, and the token; the UI asks for the key once more."""
    with opened(folder, url, may_be=[401]) as page:
        page.goto(url)
        key = page.get_by_label("API key")
        key.fill("wrong-key-0123456789")
        key.press("Enter")
        page.get_by_text("The API key is not known here").wait_for()
        page.screenshot(path=folder / "key.png")
        key.fill("right-key-0123456789")
        key.press("Enter")
        page.get_by_role("button", name="Start a", exact=True).click()
        token = page.get_by_label("Admin token")
        token.fill("token-0123456789")
        token.press("Enter")
        page.get_by_role("button", name="Enter API Key").click()
        key = page.get_by_role("textbox").first
        key.fill("right-key-0123456789")
        page.screenshot(path=folder / "ui-key.png")
        key.press("Enter")
        message_box(page).wait_for()
        assert len(words_of(say(page, "Hello")).split()) > 20


async def test_chat_switch_and_see_the_swap(config, tmp_path) -> None:
    """In llama.cpp's own UI, as it comes out of the backend."""
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await in_browser(chat_and_swap, tmp_path, router.url)
            ready = [event["model"] for event in router.named("backend.ready")]
            assert ready == ["a", "b", "a", "b"]


async def test_a_conversation_keeps_its_preset(tmp_path, tmp_path_factory) -> None:
    """The UI goes on with the model that an answer names, also when it is opened again."""
    folder = make_models(tmp_path_factory)
    preset = "presets = { fast = { max_tokens = 40, ignore_eos = true } }"
    table = model_table(folder, "a", preset, args=["--predict", "48"])
    with trio.fail_after(LIMIT_S):
        async with serving(write_config(tmp_path, table)) as router:
            await in_browser(keep_the_preset, tmp_path, router.url)
            done = router.named("request.completed")
            answers = [event for event in done if event["path"] == "/v1/chat/completions"]
            assert {event["completion_tokens"] for event in answers} == {40}


async def test_an_answer_grows_while_it_comes(tmp_path, tmp_path_factory) -> None:
    """Each piece is seen before the next one is sent."""
    script = tmp_path / "stepping.py"
    script.write_text(_STEPPING)
    command = json.dumps([sys.executable, "-I", str(script), "$port"])
    config = write_config(
        tmp_path,
        model_table(make_models(tmp_path_factory), "a", 'group = "g"'),
        f'\n[models.slow]\ngroup = "g"\nspawn.command = {command}\n',
    )
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await in_browser(watch_it_grow, tmp_path, router.url)


async def test_the_start_page_leads_to_the_ui(config, tmp_path) -> None:
    """It needs no mouse, says what does not work, and is back once no model runs."""
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await in_browser(start_from_the_page, tmp_path, router.url)
            await in_browser(come_back_later, tmp_path, router.url)
            assert router.named("backend.ready")[-1]["model"] == "b"


async def test_the_start_page_asks_for_secrets(tmp_path, tmp_path_factory) -> None:
    """Where models need an API key, and loading them the admin token."""
    config = write_config(
        tmp_path,
        '[api_keys.me]\nkey = "right-key-0123456789"\n',
        model_table(make_models(tmp_path_factory), "a", args=["--predict", "48"]),
        router=['admin_token = "token-0123456789"', 'models_api = "admin"'],
    )
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await in_browser(give_the_secrets, tmp_path, router.url)
            await router.event("backend.ready", model="a")
