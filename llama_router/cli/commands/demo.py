"""``demo``: serves two tiny models, to show streaming and a swap."""

from __future__ import annotations

import json
import os
import sys
import time
import webbrowser
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Final, TextIO

import attrs
import trio

from ...backends.environment import find_llama_server, inherited
from ...backends.server_programs import ask_program
from ...config.load import LoadedConfig, load_config
from ...config.locations import NO_HOME, state_dir_for
from ...errors.base import RouterError
from ...errors.config import ConfigError
from ...files import home_folder
from ...http_library import httpx
from ...logs.output import configure
from ...models.tiny.chat import make_chat_model
from ..garbage_collection import fewer_collections
from ..options import Flag, Port
from .serve import override_address

if TYPE_CHECKING:
    from ...supervisor.running_router import RunningRouter

#: The two models: name and seed. Different seeds give different answers.
MODELS: Final = {"tiny-a": 1, "tiny-b": 2}

_CONFIG = """\
# Made by `llama-router demo`. Two exclusive models: asking for one unloads the other.
[router]
state_dir = "state"
scan_caches = false
log_format = "console"

[models.tiny-a]
path = "tiny-a.gguf"

[models.tiny-b]
path = "tiny-b.gguf"
"""


def demo(
    *,
    once: Flag = False,
    port: Port = None,
    folder: Path | None = None,
    no_browser: Flag = False,
) -> int:
    """Make two tiny models, serve them, and print requests to try.

    Args:
        once: Send the requests, print the duration of each step, and exit.
        no_browser: Do not open the dashboard in the browser of the desktop.
        port: Port to listen on; 8082 by default, with --once any free one.
        folder: Folder for the models; $XDG_CACHE_HOME/llama-router/demo by default.
    """
    folder = folder or _cache_folder()
    if folder is None:
        _print(f"The demo needs a folder: give --folder; {NO_HOME}", file=sys.stderr)
        return 1
    if fault := _fault_of_backend():
        _print(fault, file=sys.stderr)
        return 1
    try:
        loaded = prepare(folder)
    except (ConfigError, ImportError, OSError) as exc:
        _print(f"The demo's models cannot be made in {folder}: {exc}", file=sys.stderr)
        return 1
    if once:
        return _demo_once(override_address(loaded, port=port or 0), folder)
    with fewer_collections():
        # The whole router: half a second of imports, which `demo --help` does not need.
        from ...supervisor.state_dir import StateDirLock  # noqa: PLC0415 -- see above
        from ..router_process import serve_config  # noqa: PLC0415 -- see above

    loaded = override_address(loaded, port=port)
    lock = StateDirLock()  # by which other commands find this router, too
    try:
        lock.hold(state_dir_for(loaded.config.router.state_dir, os.environ))
    except ConfigError as exc:
        _print(f"The demo in {folder} cannot start: {exc}", file=sys.stderr)
        return 1
    try:
        welcome = _Welcome(folder, not no_browser and _has_desktop())
        status = serve_config(loaded, task_status=welcome)
    finally:
        lock.release()
    if status == 1:
        _print(_ENDED, file=sys.stderr)
    return status


def _fault_of_backend() -> str | None:
    """Return why this machine has no working backend and what to install; None if it has one."""
    words = find_llama_server()
    if words is None:
        return (
            "The demo needs a backend: pip install 'llama-router[embedded]', "
            "or put llama-server on PATH."
        )
    env = inherited(os.environ)
    found = trio.run(partial(ask_program, words, env, has_gpu=False))
    return None if found.fault is None else f"The demo cannot start: {found.fault}."


def _cache_folder() -> Path | None:
    """Return the default folder of the demo; None if there is no home folder."""
    base, home = os.environ.get("XDG_CACHE_HOME"), home_folder(os.environ)
    if not base and home is None:
        return None
    return Path(base or f"{home}/.cache", "llama-router", "demo")


def prepare(folder: Path) -> LoadedConfig:
    """Write the configuration and the missing models into *folder*; return the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in MODELS.items():
        path = folder / f"{name}.gguf"
        if not path.exists():
            make_chat_model(path, name=name, seed=seed)
    config = folder / "router.toml"
    config.write_text(_CONFIG)
    return load_config(config)


_ENDED = """\
The demo ended with an error; the lines above say why. If the port is taken, try another one:
llama-router demo --port 8083"""

_WHAT_TO_TRY = """\
Two tiny random models (they babble, but fast) are at {url}.
Open that address in a browser: the dashboard shows them, and what happens to them.
In another terminal, try:

  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "tiny-a", "stream": true, "max_tokens": 32,
         "messages": [{{"role": "user", "content": "Hello"}}]}}'

    spawns the backend of tiny-a, waits until it is ready, and streams its answer.

  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "tiny-b", "max_tokens": 32,
         "messages": [{{"role": "user", "content": "Hello"}}]}}'

    stops tiny-a and starts tiny-b in its place: a swap. Below you see each step.

  curl {url}/v1/models        lists both, and which one is loaded.

  llama-router ps --config {folder}/router.toml

    says what runs. That file is the demo's configuration.

Ctrl-C ends it; no backend stays behind.
"""


@attrs.frozen
class _Welcome:
    """Prints what to try once the router accepts connections: not before a start that fails.

    Attributes:
        folder: The folder of the demo.
        browser: Whether to open the dashboard in the browser of the desktop.
    """

    folder: Path
    browser: bool

    def started(self, value: RunningRouter | None = None) -> None:
        """Print the requests, with the address of the router."""
        assert value is not None, "a router reports itself"
        _print(_WHAT_TO_TRY.format(url=value.urls[0], folder=self.folder))
        if self.browser:
            # Daemonic: a browser that hangs must not hold up the end.
            Thread(target=webbrowser.open, args=(f"{value.urls[0]}/ui/",), daemon=True).start()


def _has_desktop() -> bool:
    """Return whether a person looks at a desktop, and at the terminal of this command."""
    shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(shown) and sys.stdout.isatty()


@attrs.frozen
class _Step:
    """One request of the demonstration, and its result."""

    title: str
    ttft_s: float
    duration_s: float
    answer: str


def _demo_once(loaded: LoadedConfig, folder: Path) -> int:
    """Send the requests and print the steps; return 0 only if every answer was right."""
    from ..router_process import leaves  # noqa: PLC0415 -- see `demo`

    steps: list[_Step] = []
    with configure(level="warning"):
        try:
            steps = trio.run(partial(_run_once, loaded, folder))
        except* (RouterError, httpx.HTTPError, trio.TooSlowError, _WrongAnswerError) as group:
            for error in leaves(group):
                _print(f"The demo failed: {str(error) or repr(error)}", file=sys.stderr)
    if not steps:
        return 1
    _print(f"{'step':<44} {'first token':>12} {'whole answer':>13}")
    for step in steps:
        _print(f"{step.title:<44} {step.ttft_s * 1000:9.1f} ms {step.duration_s * 1000:10.1f} ms")
        _print(f"    {step.answer[:70]!r}")
    return 0


class _WrongAnswerError(Exception):
    """The answer of a backend is not the expected one."""


async def _run_once(loaded: LoadedConfig, folder: Path) -> list[_Step]:
    from ...supervisor.running_router import RouterSignals  # noqa: PLC0415 -- see `demo`
    from ...supervisor.tree import run_router  # noqa: PLC0415 -- see `demo`

    router_signals = RouterSignals()
    steps: list[_Step] = []
    async with trio.open_nursery() as nursery:
        running: RunningRouter = await nursery.start(
            partial(
                run_router, loaded, router_signals, state_dir=folder / "state", environ=os.environ
            )
        )
        timeout = httpx.Timeout(120)
        async with httpx.AsyncClient(
            base_url=running.urls[0], timeout=timeout, trust_env=False
        ) as client:
            with trio.fail_after(180):
                steps.append(await _stream(client, "tiny-a", "tiny-a: spawn, load, stream"))
                steps.append(await _stream(client, "tiny-a", "tiny-a again: it is loaded"))
                steps.append(
                    await _answer(client, "tiny-b", "swap: stop tiny-a, load tiny-b, answer")
                )
                await _check_loaded(client, "tiny-b")
        router_signals.stop.set()
    return steps


def _body(model: str, *, stream: bool) -> dict[str, object]:
    messages = [{"role": "user", "content": "Hello"}]
    return {"model": model, "messages": messages, "max_tokens": 16, "stream": stream}


async def _stream(client: httpx.AsyncClient, model: str, title: str) -> _Step:
    begun_s = time.perf_counter()
    first_s: float | None = None
    words: list[str] = []
    async with client.stream(
        "POST", "/v1/chat/completions", json=_body(model, stream=True)
    ) as response:
        if response.status_code != 200:
            await response.aread()
            raise _WrongAnswerError(_message_of(response))
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                if content := choice["delta"].get("content"):
                    first_s = first_s or time.perf_counter()
                    words.append(content)
    if first_s is None:
        raise _WrongAnswerError(f"{model} streamed no text")
    return _Step(title, first_s - begun_s, time.perf_counter() - begun_s, "".join(words))


async def _answer(client: httpx.AsyncClient, model: str, title: str) -> _Step:
    begun_s = time.perf_counter()
    response = await client.post("/v1/chat/completions", json=_body(model, stream=False))
    if response.status_code != 200:
        raise _WrongAnswerError(_message_of(response))
    took_s = time.perf_counter() - begun_s
    return _Step(title, took_s, took_s, response.json()["choices"][0]["message"]["content"])


async def _check_loaded(client: httpx.AsyncClient, model: str) -> None:
    listed = (await client.get("/v1/models")).json()["data"]
    loaded = [entry["id"] for entry in listed if entry["status"]["value"] == "loaded"]
    if loaded != [model]:
        raise _WrongAnswerError(f"after the swap {loaded} are loaded instead of {model}")


def _message_of(response: httpx.Response) -> str:
    """Return the message of an error, without the JSON around it."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text


def _print(text: str, *, file: TextIO | None = None) -> None:
    print(text, file=file, flush=True)
