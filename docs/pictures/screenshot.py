"""Takes the pictures of the dashboard, from the real program in a headless Chromium.

``python docs/pictures/screenshot.py docs/pictures`` serves tiny models under names that say what
they stand for, on two simulated GPUs, sends some requests, and writes ``dashboard.png`` and
``machine.png``. It needs playwright and Chromium, as the tests do.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from llama_router.models.tiny.bert import make_embedding_model
from llama_router.models.tiny.chat import make_chat_model

PORT = 8084
URL = f"http://127.0.0.1:{PORT}"

#: Name, simulated GPU, memory that it claims there in MiB, and its settings.
MODELS = (
    ("chat-8b", "gpu0", 7300, "ttl_s = 900"),
    ("coder-32b", "gpu1", 21400, ""),
    ("vision-12b", "gpu0", 10900, ""),
    ("writer-24b", "gpu1", 16800, ""),
    ("titles-1b", "gpu0", 1200, "keep_loaded = true"),
)


def main() -> None:
    """Serve, ask, take the pictures."""
    target = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        config = written_config(Path(folder))
        router = subprocess.Popen(
            [sys.executable, "-m", "llama_router", "serve", "--config", str(config)],
            env={**os.environ, "HOME": folder},
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until_ready()
            for name in ("writer-24b", "chat-8b", "titles-1b", "embedder", "vision-12b"):
                ask(name, tokens=12)
            for name in ("coder-32b", "chat-8b", "chat-8b", "titles-1b", "writer-24b"):
                threading.Thread(target=ask_for_ever, args=(name,), daemon=True).start()
            take_pictures(target, Path(folder))
        finally:
            router.send_signal(signal.SIGINT)
            time.sleep(1)
            router.send_signal(signal.SIGINT)  # without waiting for the streams
            router.wait(30)


def written_config(folder: Path) -> Path:
    """Return the configuration, after writing it and the models."""
    tables = [
        f'[router]\nport = {PORT}\nscan_caches = false\nstate_dir = "state"\n',
        '[scheduler]\npolicy = "memory"\n',
        '[devices.gpu0]\nkind = "simulated"\nmemory_mib = 24576\n',
        '[devices.gpu1]\nkind = "simulated"\nmemory_mib = 24576\n',
    ]
    for seed, (name, device, memory_mib, settings) in enumerate(MODELS):
        make_chat_model(folder / f"{name}.gguf", name=name, seed=seed)
        tables.append(
            f'[models."{name}"]\npath = "{name}.gguf"\nmemory_mib = {{ {device} = {memory_mib} }}\n'
            f'args = ["--ctx-size", "8192"]\n{settings}\n'
        )
    make_embedding_model(folder / "embedder.gguf")
    tables.append(
        '[models.embedder]\npath = "embedder.gguf"\n'
        'memory_mib = { gpu0 = 600 }\nargs = ["--embeddings"]\n'
    )
    config = folder / "router.toml"
    config.write_text("\n".join(tables), encoding="utf-8")
    return config


def wait_until_ready() -> None:
    """Wait until the router answers."""
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"{URL}/livez", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the router does not start")


def ask(model: str, *, tokens: int) -> None:
    """Send one request, and read its answer."""
    path, body = "/v1/chat/completions", chat(model, tokens)
    if model == "embedder":
        path, body = "/v1/embeddings", {"model": model, "input": ["one", "two"]}
    request = urllib.request.Request(
        URL + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            answer.read()
    except OSError:
        return  # the pictures are taken, and the router has ended


def ask_for_ever(model: str) -> None:
    """Send one long request after the other."""
    while True:
        ask(model, tokens=6000)


def chat(model: str, tokens: int) -> dict[str, Any]:
    """Return the body of a chat request."""
    messages = [{"role": "user", "content": "Tell me a story."}]
    return {
        "model": model,
        "messages": messages,
        "max_tokens": tokens,
        "stream": True,
        "ignore_eos": True,
    }


def take_pictures(target: Path, home: Path) -> None:
    """Write the pictures of the two sections that say most."""
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=program, env={"HOME": str(home)})
        page = browser.new_page(viewport={"width": 1200, "height": 780})
        page.goto(f"{URL}/ui/")
        page.get_by_text("tokens/s", exact=False).first.wait_for()
        page.wait_for_timeout(4000)  # so that rates are known
        page.screenshot(path=target / "dashboard.png")
        page.goto(f"{URL}/ui/#/machine")
        page.get_by_role("heading", name="Machine").wait_for()
        page.wait_for_timeout(2000)
        page.screenshot(path=target / "machine.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
