"""The dashboard's logs, playground and configuration, in a headless Chromium.

Each test leaves screenshots in its temporary folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llama_router.models.tiny.chat import make_chat_model
from tests.hub_server import HubServer
from tests.process.browser import MARKS, in_browser, opened
from tests.process.real import make_models, model_table, serving, write_config

if TYPE_CHECKING:
    from playwright import sync_api
else:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [*MARKS, pytest.mark.embedded]

_ANSI = """
async () => {
  const { parts, plain } = await import("/ui/ansi.js");
  return [
    parts("plain"),
    parts("\\x1b[31mred\\x1b[0m and \\x1b[1;32mgreen"),
    parts("\\x1b[38;5;9mpalette\\x1b[m"),
    parts("\\x1b]0;title\\x07<b>\\u202e\\x08"),
    plain("\\x1b[31mred\\x1b[0m"),
  ];
}
"""

_MARKDOWN = """
async () => {
  const { blocks } = await import("/ui/markdown.js");
  return blocks("# T\\n\\nOne\\ntwo\\n- a\\n- b\\n\\n2. c\\n```py\\n# no heading\\nx = 1\\n").map(
    ({ mark, ...block }) => block);
}
"""


@pytest.fixture
def config(tmp_path, tmp_path_factory) -> Path:
    """Two chat models, an embedding model, and one that cannot be started."""
    folder = make_models(tmp_path_factory)
    return write_config(
        tmp_path,
        model_table(folder, "a", args=["--predict", "24"]),
        model_table(folder, "b", args=["--predict", "24"]),
        model_table(folder, "embedder", args=["--embeddings"]),
        model_table(folder, "broken", file="a", args=["--no-such-option"]),
    )


def read_logs(folder: Path, url: str) -> None:
    """Look at an empty log, then at the output of a model that fails to load."""
    with opened(folder, url, may_be=[503]) as page:
        page.goto(f"{url}/ui/#/logs/broken")
        page.get_by_text("No output yet").wait_for()
        page.evaluate(
            "fetch('/v1/completions', {method: 'POST', headers: {'content-type':"
            " 'application/json'}, body: JSON.stringify({model: 'broken', prompt: 'x'})})"
        )
        lines = page.get_by_role("log", name="Lines")
        lines.get_by_text("no-such-option").first.wait_for()
        page.screenshot(path=folder / "logs.png")
        everything = lines.locator(".line").count()
        page.get_by_role("searchbox", name="Search in the lines").fill("INVALID argument")
        page.wait_for_function("n => document.querySelectorAll('.line').length < n", arg=everything)
        assert lines.locator("mark").first.inner_text() == "invalid argument"
        page.get_by_role("searchbox", name="Search in the lines").fill("nothing has these words")
        page.get_by_text("No line fits").wait_for()
        page.get_by_role("searchbox", name="Search in the lines").fill("")
        page.get_by_label("Lowest level").select_option("error")
        page.wait_for_function("n => document.querySelectorAll('.line').length < n", arg=everything)
        with page.expect_download() as downloaded:
            page.get_by_role("link", name="Download").click()
        assert b"no-such-option" in downloaded.value.path().read_bytes()


async def test_the_log_of_a_model_is_read_live(config, tmp_path) -> None:
    """Its lines appear as it prints them; they can be searched, filtered, downloaded."""
    async with serving(config) as router:
        await in_browser(read_logs, tmp_path, router.url)


def read_much(folder: Path, url: str) -> None:
    """Give the list 30,000 lines, one of 10 MB, and look at both ends."""
    with opened(folder, url) as page:
        lines = "".join(
            f'{{"ts":"2026-01-01T00:00:00.000Z","line":"line {number} \\u001b[31mred"}}\n'
            for number in range(30_000)
        )
        lines += '{"ts":"2026-01-01T00:00:00.000Z","line":"' + "x" * 10_000_000 + '"}\n'
        page.route("**/admin/logs/a?*", lambda route: route.fulfill(body=lines))
        page.goto(f"{url}/ui/#/logs/a")
        page.get_by_role("button", name="10,000,000 characters").wait_for()
        page.get_by_text("10,000 of 10,000 lines").wait_for()
        assert page.locator(".line").count() < 200
        page.get_by_role("button", name="10,000,000 characters").click()
        page.get_by_role("dialog").get_by_text("9,800,000 more").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("log", name="Lines").evaluate("list => { list.scrollTop = 0; }")
        first = page.locator(".line").first
        page.locator(".line").first.get_by_text("line 20001").wait_for()
        assert first.locator(".ansi-red").inner_text() == "red"


async def test_a_long_log_costs_only_what_is_in_view(config, tmp_path) -> None:
    """The last 10,000 lines are kept, and one of 10 MB is cut until it is asked for."""
    async with serving(config) as router:
        await in_browser(read_much, tmp_path, router.url)


def chat(folder: Path, url: str) -> None:
    """Chat with a model, ask again, change the model, keep the conversation over sections."""
    with opened(folder, url) as page:
        page.goto(f"{url}/ui/#/playground/a")
        page.get_by_label("Message").fill("Hello <b>there</b>")
        page.keyboard.press("Enter")
        answer = page.get_by_role("article", name="Answer of a")
        page.get_by_role("button", name="Answer again").wait_for()
        assert "24 tokens" in answer.inner_text()
        assert "tokens/s" in answer.inner_text()
        assert page.get_by_role("article", name="You").inner_text() == "Hello <b>there</b>"
        page.screenshot(path=folder / "chat.png")
        page.get_by_role("button", name="Answer again").click()
        page.get_by_role("button", name="Answer again").wait_for()
        page.get_by_label("Model", exact=True).select_option("b")
        page.get_by_label("Message").fill("And you?")
        page.keyboard.press("Enter")
        page.get_by_role("article", name="Answer of b").get_by_text("24 tokens").wait_for()
        page.get_by_role("link", name="Models", exact=True).click()
        page.get_by_role("link", name="Playground").click()
        page.get_by_role("article").nth(3).wait_for()
        page.get_by_role("button", name="Clear").click()
        page.get_by_text("Say something").wait_for()


async def test_a_chat_in_the_playground(config, tmp_path) -> None:
    """Words stream in, with figures; text of a person or a model is never parsed as HTML."""
    async with serving(config) as router:
        await in_browser(chat, tmp_path, router.url)


def fail(folder: Path, url: str) -> None:
    """Chat with a model that does not start."""
    with opened(folder, url, may_be=[503]) as page:
        page.goto(f"{url}/ui/#/playground/broken")
        page.get_by_label("Message").fill("Hello")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("no-such-option").wait_for()
        page.screenshot(path=folder / "failed.png")


async def test_the_playground_says_why_a_model_fails(config, tmp_path) -> None:
    """In the place of the answer."""
    async with serving(config) as router:
        await in_browser(fail, tmp_path, router.url)


def see_abilities(folder: Path, url: str) -> None:
    """See what models can do before any was loaded; the playground offers those that fit."""
    with opened(folder, url) as page:
        page.goto(f"{url}/ui/")
        cards = page.get_by_role("list", name="Models")
        cards.get_by_role("listitem", name="a", exact=True).get_by_text("Tools").wait_for()
        embedder = cards.get_by_role("listitem", name="embedder", exact=True)
        embedder.get_by_text("Embeddings", exact=True).wait_for()
        embedder.get_by_role("link", name="Try: embedder").click()
        page.wait_for_url("**/ui/#/playground/embedder?tab=embeddings")
        choice = page.get_by_role("combobox", name="Model")
        sync_api.expect(choice.get_by_role("option")).to_have_text(["embedder"])


async def test_abilities_are_known_before_the_first_load(config, tmp_path) -> None:
    """From the files and the commands."""
    async with serving(config) as router:
        await in_browser(see_abilities, tmp_path, router.url)


def compare(folder: Path, url: str) -> None:
    """Compare texts by their embeddings."""
    with opened(folder, url) as page:
        page.goto(f"{url}/ui/#/playground/embedder?tab=embeddings")
        page.get_by_label("Texts").fill("one\n\ntwo")
        page.get_by_role("button", name="Compare").click()
        table = page.get_by_role("table", name="Similarity of the texts")
        table.wait_for()
        assert table.get_by_role("cell", name="1.00").count() == 2
        page.screenshot(path=folder / "embeddings.png")


async def test_embeddings_in_the_playground(config, tmp_path) -> None:
    """Each text is like itself."""
    async with serving(config) as router:
        await in_browser(compare, tmp_path, router.url)


def edit(folder: Path, url: str) -> None:
    """Make a mistake, mend it, apply a change, see where the setting comes from."""
    path = folder / "router.toml"
    with opened(folder, url) as page:
        page.goto(f"{url}/ui/#/config")
        editor = page.get_by_label("Text of the configuration file")
        editor.wait_for()
        before = editor.input_value()
        assert before == path.read_text()
        page.get_by_text("No changes").wait_for()
        editor.fill(before.replace("scan_caches = false", "scan_caches = false\nprot = 1"))
        page.get_by_text("did you mean 'port'?").wait_for()
        assert page.get_by_role("button", name="Save and apply").is_disabled()
        page.screenshot(path=folder / "mistake.png")
        editor.fill("# Mine.\n" + before.replace('"--predict", "24"', '"--predict", "12"', 1))
        page.get_by_text("Valid.").wait_for()
        page.get_by_role("button", name="Save and apply").click()
        page.get_by_text("No changes").wait_for()
        assert path.read_text().startswith("# Mine.\n")
        page.goto(f"{url}/ui/#/config/a?tab=settings")
        row = page.get_by_role("row").filter(has_text="path").first
        row.get_by_role("link", name="line").wait_for()
        page.screenshot(path=folder / "settings.png")
        row.get_by_role("link", name="line").click()
        editor.wait_for()


async def test_the_configuration_is_edited_in_the_page(config, tmp_path) -> None:
    """With its comments; a mistake is shown with its line, and cannot be applied."""
    async with serving(config) as router:
        await in_browser(edit, tmp_path, router.url)


def edit_in_two_tabs(folder: Path, url: str) -> None:
    """Edit, while another program saves the file."""
    path = folder / "router.toml"
    with opened(folder, url, may_be=[409]) as page:
        page.goto(f"{url}/ui/#/config")
        editor = page.get_by_label("Text of the configuration file")
        editor.wait_for()
        mine = editor.input_value() + "\n# Mine.\n"
        editor.fill(mine)
        page.get_by_text("Valid.").wait_for()
        path.write_text(path.read_text() + "\n# Other.\n")
        page.get_by_text("The file was changed by another program or tab.").wait_for()
        assert editor.input_value() == mine
        page.get_by_role("button", name="Take that one").click()
        assert editor.input_value().endswith("# Other.\n")
        page.get_by_text("No changes").wait_for()


async def test_a_change_of_another_tab_is_not_overwritten(config, tmp_path) -> None:
    """The page says so and keeps what was typed until a person decides."""
    async with serving(config) as router:
        await in_browser(edit_in_two_tabs, tmp_path, router.url)


def evaluate(folder: Path, url: str) -> None:
    """Run the modules that need no page."""
    with opened(folder, url) as page:
        page.goto(f"{url}/ui/")
        plain, coloured, palette, hostile, text = page.evaluate(_ANSI)
        assert plain == [{"text": "plain", "className": ""}]
        assert coloured == [
            {"text": "red", "className": "ansi-red"},
            {"text": " and ", "className": ""},
            {"text": "green", "className": "ansi-bold ansi-green"},
        ]
        assert palette == [{"text": "palette", "className": ""}]
        assert hostile == [{"text": "<b>\\x202e\\x08", "className": ""}]
        assert text == "red"
        assert page.evaluate(_MARKDOWN) == [
            {"kind": "heading", "text": "T"},
            {"kind": "text", "text": "One\ntwo"},
            {"kind": "list", "ordered": False, "start": 1, "items": ["a", "b"]},
            {"kind": "list", "ordered": True, "start": 2, "items": ["c"]},
            {"kind": "code", "language": "py", "lines": ["# no heading", "x = 1", ""]},
        ]


async def test_text_of_programs_and_models_becomes_parts(config, tmp_path) -> None:
    """Colours become classes, control characters visible; Markdown becomes blocks."""
    async with serving(config) as router:
        await in_browser(evaluate, tmp_path, router.url)


def get_a_model(folder: Path, url: str) -> None:
    """Search the hub, look at what fits, download, try the model, delete it."""
    with opened(folder, url) as page:
        page.goto(f"{url}/ui/#/hub")
        page.get_by_role("searchbox", name="Search the hub for GGUF models").fill("tiny")
        page.get_by_role("link", name="acme/tiny-GGUF").click()
        dialog = page.get_by_role("dialog")
        row = dialog.get_by_role("listitem").filter(has_text="Q8_0")
        row.get_by_text("Fits a GPU").wait_for()
        page.screenshot(path=folder / "repository.png")
        row.get_by_role("button", name="Download acme/tiny-GGUF:Q8_0").click()
        row.get_by_text("Here").wait_for()
        page.keyboard.press("Escape")
        downloads = page.get_by_role("region", name="Downloads")
        downloads.get_by_text("Here").wait_for()
        page.screenshot(path=folder / "downloaded.png")
        downloads.get_by_role("link", name="Try it").click()
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Most tokens").fill("4")
        page.get_by_label("Message").fill("Hello")
        page.keyboard.press("Enter")
        page.get_by_role("article", name="Answer of acme/tiny-GGUF:Q8_0").get_by_text(
            "4 tokens"
        ).wait_for()
        page.goto(f"{url}/ui/#/hub/acme%2Ftiny-GGUF")
        row.get_by_role("button", name="Delete acme/tiny-GGUF:Q8_0").click()
        page.get_by_role("button", name="Delete", exact=True).click()
        row.get_by_role("button", name="Download acme/tiny-GGUF:Q8_0").wait_for()


async def test_a_model_is_found_fetched_tried_and_deleted(tmp_path) -> None:
    """From a search to an answer, without leaving the page; it says where the model fits."""
    repo = tmp_path / "hub" / "acme" / "tiny-GGUF"
    repo.mkdir(parents=True)
    make_chat_model(repo / "tiny-Q8_0.gguf", name="tiny", seed=1)
    config = write_config(
        tmp_path,
        "[scheduler]\npolicy = 'memory'\n[devices.gpu]\nkind = 'simulated'\nmemory_mib = 4096\n",
        router=["scan_caches = true"],
    )
    environ: dict[str, Any] = dict.fromkeys(
        ("HF_TOKEN", "HF_HUB_OFFLINE", "LLAMA_CACHE", "XDG_CACHE_HOME"), ""
    )
    with HubServer(tmp_path / "hub") as hub:
        environ |= {"HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "NO_PROXY": "*"}
        environ["HF_HUB_CACHE"] = str(tmp_path / "cache")
        async with serving(config, **environ) as router:
            await in_browser(get_a_model, tmp_path, router.url)


def search_in_vain(folder: Path, url: str) -> None:
    """Search a hub that does not answer; the rest of the section works."""
    with opened(folder, url, may_be=[400, 502, 503]) as page:
        page.goto(f"{url}/ui/#/hub")
        page.get_by_text("The hub cannot be searched.").wait_for()
        page.get_by_role("button", name="By name").click()
        page.get_by_label("Name", exact=True).fill("no/such thing:")
        page.get_by_role("button", name="Download", exact=True).click()
        page.get_by_role("dialog").locator(".field-error").wait_for()
        page.screenshot(path=folder / "offline.png")


async def test_a_hub_that_is_offline_is_said(config, tmp_path) -> None:
    """In one sentence, with a button to try again."""
    async with serving(config, HF_HUB_OFFLINE="1", HOME=str(tmp_path)) as router:
        await in_browser(search_in_vain, tmp_path, router.url)
