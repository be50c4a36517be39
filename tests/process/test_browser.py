"""llama.cpp's chat UI, in the dashboard and in a tab of its own, in a headless Chromium.

Each test leaves screenshots in its temporary folder.
"""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import httpx
import pytest
import trio

from tests.limits import LIMIT_S
from tests.process.browser import MARKS, PATIENCE_S, in_browser, opened
from tests.process.harness import free_port
from tests.process.real import chat, make_models, model_table, serving, write_config

if TYPE_CHECKING:
    from playwright import sync_api
else:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [*MARKS, pytest.mark.embedded]

ChatUi: TypeAlias = "sync_api.Page | sync_api.Frame"
"""The chat UI in a tab of its own, or in the frame of the dashboard."""

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


@pytest.fixture
def config(tmp_path, tmp_path_factory) -> Path:
    """Two models that take turns, with notices, and one that cannot be started."""
    folder = make_models(tmp_path_factory)
    tables = [model_table(folder, name, args=["--predict", "48"]) for name in "ab"]
    broken = model_table(folder, "broken", file="a", args=["--no-such-option"])
    return write_config(tmp_path, *tables, broken, router=["notify_model_swap = true"])


def start_chat(page: sync_api.Page, url: str, model: str) -> sync_api.Frame:
    """Open the dashboard, start *model* for the chat UI, and return the frame with it."""
    page.goto(url)
    page.get_by_role("link", name="Chat UI").click()
    page.get_by_role("button", name=f"Start {model}", exact=True).click()
    return frame(page)


def frame(page: sync_api.Page) -> sync_api.Frame:
    """Return the chat UI in the dashboard, once it is there."""
    found = page.wait_for_selector("iframe")
    assert found is not None
    chat_ui = found.content_frame()
    assert chat_ui is not None
    message_box(chat_ui).wait_for()
    return chat_ui


def message_box(chat_ui: ChatUi) -> sync_api.Locator:
    """Return where a person types."""
    return chat_ui.get_by_role("textbox", name="Type a message")


def say(chat_ui: ChatUi, text: str) -> sync_api.Locator:
    """Send *text*; return the group of the answer once it is complete."""
    answers = chat_ui.get_by_role("group", name="Assistant message")
    before = answers.count()
    message_box(chat_ui).fill(text)
    message_box(chat_ui).press("Enter")
    answer = answers.nth(before)
    answer.get_by_role("button", name="Regenerate").wait_for()
    chat_ui.locator("form").get_by_role("button", name="Send").first.wait_for()  # not "Stop"
    return answer


def words_of(answer: sync_api.Locator) -> str:
    """Return what a model said."""
    return answer.get_by_role("paragraph").last.inner_text()


def chat_and_swap(folder: Path, url: str) -> None:
    """Choose a, talk, choose b, talk; then somebody else needs a, and b comes back."""
    with opened(folder, url) as page:
        chat_ui = start_chat(page, url, "a")
        with page.expect_response("**/v1/chat/completions") as answered:
            answer = say(chat_ui, "Hello")
        assert answered.value.headers["content-type"] == "text/event-stream"
        page.screenshot(path=folder / "answer.png")
        assert len(words_of(answer).split()) > 20
        menu = chat_ui.locator("form").get_by_role("button", name="a", exact=True)
        menu.click()
        chat_ui.get_by_role("option", name=re.compile("^b ")).wait_for()
        page.screenshot(path=folder / "menu.png")
        chat_ui.get_by_role("option", name=re.compile("^b ")).click()
        chat_ui.locator("form").get_by_role("button", name="b", exact=True).wait_for()
        answer = say(chat_ui, "And you?")
        assert answer.get_by_role("button", name="b", exact=True).count() == 1
        asked = httpx.post(f"{url}/v1/chat/completions", json=chat("a"), timeout=PATIENCE_S)
        assert asked.json()["model"] == "a"
        answer = say(chat_ui, "Still there?")
        answer.get_by_role("button", name=re.compile("Reasoning")).click()
        notices = answer.get_by_text(re.compile("Loading model 'b'"))
        notices.wait_for()
        page.screenshot(path=folder / "notices.png")
        said = notices.inner_text()
        assert "Unloading model 'a'" in said
        assert "Model 'b' is ready." in said
        assert answer.get_by_role("button", name="b", exact=True).count() == 1
        assert len(words_of(answer).split()) > 20


def choose(chat_ui: ChatUi, now: str, wanted: str) -> None:
    """Choose the model *wanted* in the menu, which shows *now*."""
    chat_ui.locator("form").get_by_role("button", name=now, exact=True).click()
    chat_ui.get_by_role("option").filter(has=chat_ui.get_by_title(wanted, exact=True)).click()
    chat_ui.get_by_role("option").first.wait_for(state="hidden")


def keep_the_preset(folder: Path, url: str) -> None:
    """Choose a preset and talk; then open the conversation once more, and go on."""
    asked: list[str] = []

    def note(request: sync_api.Request) -> None:
        if request.url.endswith("/v1/chat/completions"):
            asked.append(json.loads(request.post_data or "{}")["model"])

    with opened(folder, url) as page:
        page.on("request", note)
        chat_ui = start_chat(page, url, "a")
        choose(chat_ui, "a", "a:fast")
        assert len(words_of(say(chat_ui, "Hello")).split()) > 20
        page.screenshot(path=folder / "preset.png")
        say(chat_ui, "Are you still the same?")
        page.wait_for_url("**/ui/#/chat/*")  # that of the conversation
        page.reload()
        chat_ui = frame(page)
        chat_ui.get_by_role("group", name="Assistant message").nth(1).wait_for()
        say(chat_ui, "And now?")
        assert len(asked) >= 3
        assert set(asked) == {"a:fast"}


def watch_it_grow(folder: Path, url: str) -> None:
    """Talk to a backend that says each word only when it is told to."""
    with opened(folder, url, may_be=[404]) as page:
        chat_ui = start_chat(page, url, "a")
        choose(chat_ui, "a", "slow")
        message_box(chat_ui).fill("Slowly, please")
        message_box(chat_ui).press("Enter")
        answer = chat_ui.get_by_role("group", name="Assistant message")
        for said in ("first", "first second", "first second third"):
            answer.get_by_text(said, exact=True).wait_for()  # nothing behind it was sent yet
            httpx.post(f"{url}/upstream/slow/step", timeout=PATIENCE_S).raise_for_status()
        answer.get_by_role("button", name="Regenerate").wait_for()
        assert words_of(answer) == "first second third"


def start_from_the_dashboard(folder: Path, url: str) -> None:
    """See the models, one that fails, and one that works; by keyboard."""
    with opened(folder, url, may_be=[503]) as page:
        page.goto(f"{url}/index.html")
        page.wait_for_url("**/ui/#/chat")
        models = page.get_by_role("list", name="Models to start").get_by_role("listitem")
        sync_api.expect(models).to_have_count(3, timeout=PATIENCE_S * 1000)
        page.screenshot(path=folder / "start.png")
        page.emulate_media(color_scheme="dark")
        page.screenshot(path=folder / "start-dark.png")
        page.get_by_role("button", name="Start broken").focus()
        page.keyboard.press("Enter")
        page.get_by_role("status").get_by_text(re.compile("model 'broken'")).wait_for()
        page.screenshot(path=folder / "failed.png")
        page.get_by_role("button", name="Start b", exact=True).focus()
        page.keyboard.press("Space")
        chat_ui = frame(page)
        chat_ui.locator("form").get_by_role("button", name="b", exact=True).wait_for()
        page.screenshot(path=folder / "arrived.png")


def come_back_later(folder: Path, url: str) -> None:
    """Open the UI, let its service worker settle, then unload its backend and open it again."""
    with opened(folder, url) as page:
        page.goto(f"{url}/index.html")
        message_box(page).wait_for()
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        page.goto(url)
        page.wait_for_url("**/ui/")
        httpx.post(f"{url}/models/unload", json={"model": "b"}, timeout=PATIENCE_S)
        page.wait_for_function(_NONE_RUNS)
        page.goto(f"{url}/index.html")
        page.get_by_role("button", name="Start b", exact=True).wait_for()


def go_and_come_back(folder: Path, url: str) -> None:
    """Follow an old bookmark of a conversation, then one click away from it, and back."""
    with opened(folder, url) as page:
        chat_ui = start_chat(page, url, "a")
        say(chat_ui, "Hello")
        page.wait_for_url("**/ui/#/chat/*")
        conversation = page.url.rpartition("/")[2]
        page.goto("about:blank")
        page.goto(f"{url}/#/chat/{conversation}")
        frame(page).get_by_role("group", name="Assistant message").first.wait_for()
        page.get_by_role("link", name="Models", exact=True).click()
        page.get_by_role("button", name="Unload a", exact=True).wait_for()
        page.get_by_role("link", name="Chat UI").click()
        message_box(frame(page)).wait_for()


#: What a page can try to get: the state of the router, at its own origin and at the dashboard's.
_REACHES = """
async (origin) => {
  const got = async (path) => {
    try {
      return (await fetch(path)).status;
    } catch (error) {
      return error.name;
    }
  };
  const paths = ["/admin/status", `${origin}/admin/status`, "/ui/session"];
  return Promise.all(paths.map(got));
}
"""


def chat_apart(folder: Path, url: str, pages: str) -> None:
    """Open the chat UI from the dashboard, in a tab of its own; see what that tab gets."""
    # 403: below /upstream/, the backend itself says that it has no tools.
    with opened(folder, url, may_be=[403], also=[pages]) as page:
        page.goto(url)
        page.get_by_role("link", name="Chat UI").click()
        page.get_by_role("button", name="Start a", exact=True).click()
        with page.context.expect_page() as opening:
            page.get_by_role("link", name="Open the chat UI").click()
        chat_ui = opening.value
        assert len(words_of(say(chat_ui, "Hello")).split()) > 20
        assert chat_ui.url.startswith(pages)
        chat_ui.screenshot(path=folder / "apart.png")
        assert chat_ui.evaluate(_REACHES, url) == [401, "TypeError", 404]
        chat_ui.goto(f"{url}/upstream/a/")  # as a bookmark from before
        assert chat_ui.url == f"{pages}/upstream/a/"
        message_box(chat_ui).wait_for()


def give_the_secrets(folder: Path, url: str) -> None:
    """Give a wrong key, the key, and the token; the UI needs no key of its own then."""
    with opened(folder, url, may_be=[401]) as page:
        page.goto(url)
        secret = page.get_by_label("Admin token or API key")
        secret.fill("wrong-key-0123456789")
        secret.press("Enter")
        page.get_by_text("This is neither the admin token nor an API key").wait_for()
        page.screenshot(path=folder / "key.png")
        secret.fill("right-key-0123456789")
        secret.press("Enter")
        page.get_by_role("link", name="Chat UI").click()
        page.get_by_role("button", name="Start a", exact=True).click()
        page.get_by_role("status").get_by_text(re.compile("admin token")).wait_for()
        page.get_by_role("button", name="Sign out").click()
        secret.fill("token-0123456789")
        secret.press("Enter")
        page.get_by_role("button", name="Start a", exact=True).click()
        chat_ui = frame(page)
        page.screenshot(path=folder / "ui-key.png")
        assert len(words_of(say(chat_ui, "Hello")).split()) > 20


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


async def test_the_dashboard_starts_the_ui(config, tmp_path) -> None:
    """It needs no mouse, says what does not work, and is back once no model runs."""
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await in_browser(start_from_the_dashboard, tmp_path, router.url)
            await in_browser(come_back_later, tmp_path, router.url)
            assert router.named("backend.ready")[-1]["model"] == "b"


async def test_the_ui_is_one_click_away(config, tmp_path) -> None:
    """And so is the dashboard from there; a bookmark of a conversation leads to it."""
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await in_browser(go_and_come_back, tmp_path, router.url)


async def test_the_ui_can_be_apart_from_the_dashboard(tmp_path, tmp_path_factory) -> None:
    """It works at an origin of its own, from which it gets nothing that only the dashboard may."""
    table = model_table(make_models(tmp_path_factory), "a", args=["--predict", "48"])
    port, second = free_port(), free_port()
    pages = f"http://127.0.0.1:{second}"
    hosts = f'host = ["127.0.0.1:{port}", "127.0.0.1:{second}"]'
    config = write_config(tmp_path, table, router=[hosts, f'pages_origin = "{pages}"'])
    steps = partial(chat_apart, pages=pages)
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await in_browser(steps, tmp_path, router.url)


async def test_one_sign_in_is_for_both(tmp_path, tmp_path_factory) -> None:
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
