"""llama.cpp's router API on a router that runs as a process, with real models."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
import trio

from llama_router.models.tiny.chat import make_chat_model
from tests.gguf_bytes import header
from tests.hub_server import HubServer
from tests.process.real import (
    LIMIT_S,
    RealRouter,
    Served,
    chat,
    make_models,
    model_table,
    serving,
    shared,
    write_config,
)

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded]

BROKEN = '\n[models.broken]\nspawn.command = ["false"]\n'


ROUTER = ["drain_s = 0.5", "max_restarts = 0"]


def tables(factory: pytest.TempPathFactory) -> list[str]:
    """Return two chat models, and one that cannot start."""
    folder = make_models(factory)
    return [model_table(folder, "a", 'aliases = ["first"]'), model_table(folder, "b"), BROKEN]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    """A router that all tests share which change nothing."""
    with shared(tmp_path_factory, *tables(tmp_path_factory), router=ROUTER) as served:
        yield served


@pytest.fixture
async def router(serve, tmp_path_factory) -> RealRouter:
    """A router of a test's own."""
    return await serve(*tables(tmp_path_factory), router=ROUTER)


@pytest.fixture
async def client(router: RealRouter) -> AsyncIterator[httpx.AsyncClient]:
    """A client without any secret."""
    async with router.client() as client:
        yield client


async def events(client: httpx.AsyncClient) -> AsyncGenerator[dict[str, Any]]:
    """Yield an empty event once the stream has begun, then what happens."""
    port = client.base_url.port
    head = f"GET /models/sse HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
    if (secret := client.headers.get("authorization")) is not None:
        head += f"authorization: {secret}\r\n"
    assert port is not None
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"{head}\r\n".encode())
        rest = b""
        async for received in stream:
            *lines, rest = (rest + received).split(b"\n")
            for line in lines:
                if line.startswith(b": models"):
                    yield {"event": ""}
                elif line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))


async def until(
    stream: AsyncIterator[dict[str, Any]], model: str, status: str
) -> list[dict[str, Any]]:
    """Return the events about *model* up to the one with that status."""
    found: list[dict[str, Any]] = []
    async for event in stream:
        if event.get("model") == model:
            found.append(event)
            if event["data"].get("status") == status:
                return found
    raise AssertionError(found)


async def entry(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    return (await client.get(f"/v1/models/{name}")).json()


async def test_load_and_unload_as_the_ui_does(client) -> None:
    """Both answer at once; events say when it is done, and what the backend says is kept."""
    async with aclosing(events(client)) as stream:
        await anext(stream)
        answer = await client.post("/models/load", json={"model": "first", "extra_args": ["-x"]})
        assert answer.json() == {"success": True}
        seen = await until(stream, "a", "loaded")
        changes = [e["data"]["status"] for e in seen if e["event"] == "status_change"]
        assert changes == ["loading", "loaded"]
        updates = [e["data"]["progress"] for e in seen if e["event"] == "status_update"]
        assert updates
        assert updates[-1]["value"] <= 1
        assert [u["value"] for u in updates] == sorted(u["value"] for u in updates)
        info = seen[-1]["data"]["info"]
        assert info["meta"]["n_ctx"] == 2048
        assert info["capabilities"] == ["completion"]
        assert await entry(client, "a") == info
        again = await client.post("/models/load", json={"model": "a"})
        assert (again.status_code, again.json()["error"]["code"]) == (400, "model_loaded")
        answer = await client.post("/models/unload", json={"model": "a"})
        assert answer.json() == {"success": True}
        seen = await until(stream, "a", "unloaded")
        assert seen[-1]["data"]["exit_code"] == 0
    unloaded = await entry(client, "a")
    assert unloaded["status"]["value"] == "unloaded"
    assert unloaded["meta"] == info["meta"]
    again = await client.post("/models/unload", json={"model": "a"})
    assert (again.status_code, again.json()["error"]["code"]) == (400, "model_not_loaded")


async def test_a_load_that_fails_is_an_event(client) -> None:
    """Each change comes once; the exit code says that it failed."""
    async with aclosing(events(client)) as stream:
        await anext(stream)
        await client.post("/models/load", json={"model": "broken"})
        seen = await until(stream, "broken", "unloaded")
    assert [event["data"]["status"] for event in seen] == ["loading", "unloaded"]
    assert seen[-1]["data"]["exit_code"] == 1
    assert (await entry(client, "broken"))["status"]["failed"] is True


async def test_a_crash_is_an_event(router, client) -> None:
    """A model for which nobody waits is unloaded then, and failed, not loading."""
    await client.post("/v1/chat/completions", json=chat("a"))
    pid = (await router.event("backend.spawned", model="a"))["pid"]
    async with aclosing(events(client)) as stream:
        await anext(stream)
        os.kill(pid, signal.SIGKILL)
        (event,) = await until(stream, "a", "unloaded")
    assert event["data"] == {"status": "unloaded", "exit_code": -signal.SIGKILL}


async def test_no_autoload_loads_nothing(router, client) -> None:
    """Neither a GET nor a POST; a loaded model answers."""
    props = await client.get("/props", params={"model": "a", "autoload": "false"})
    assert (props.status_code, props.json()["error"]["code"]) == (503, "no_models_running")
    refused = await client.post("/v1/chat/completions?autoload=false", json=chat("a"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model_not_loaded")
    assert await router.loaded() == []
    assert (await client.post("/v1/chat/completions", json=chat("a"))).status_code == 200
    props = await client.get("/props", params={"model": "first", "autoload": "false"})
    assert props.json()["default_generation_settings"]["n_ctx"] == 2048
    again = await client.post("/v1/chat/completions?autoload=false", json=chat("a"))
    assert again.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/a/metrics", 503),
        ("GET", "/upstream/a/metrics?autoload=false", 503),
        ("HEAD", "/upstream/a/v1/models?autoload=0", 503),
        ("POST", "/upstream/a/v1/chat/completions?autoload=false", 400),
        ("POST", "/api/chat?autoload=false", 400),
    ],
)
async def test_autoload_false_holds_everywhere(router, client, method, path, status) -> None:
    """Below /upstream/ and in Ollama's API as elsewhere."""
    answer = await client.request(method, path, json=chat("a") if method == "POST" else None)
    assert answer.status_code == status, answer.text
    assert await router.loaded() == []


async def test_a_look_below_upstream(client) -> None:
    """With autoload=false a loaded model answers."""
    await client.post("/v1/chat/completions", json=chat("a"))
    listed = await client.get("/upstream/a/v1/models?autoload=false")
    assert listed.json()["data"][0]["id"] == "a"


async def test_a_model_that_is_loaded_by_request_only(serve, tmp_path_factory) -> None:
    """It is refused in every API until then; a request that arrives while it loads waits."""
    router = await serve(model_table(make_models(tmp_path_factory), "a", "autoload = false"))
    async with router.client() as http:
        for path in ("/v1/chat/completions", "/api/chat"):
            refused = await http.post(path, json=chat("a"))
            assert refused.status_code == 400, refused.text
        assert (await http.get("/props?model=a")).json()["error"]["code"] == "model_not_loaded"
        assert (await http.get("/v1/models/a")).json()["autoload"] is False
        assert await router.loaded() == []
        assert (await http.post("/models/load", json={"model": "a"})).status_code == 200
        assert (await http.post("/v1/chat/completions", json=chat("a"))).status_code == 200
        few = chat("a", options={"num_predict": 4})  # Ollama's API knows no max_tokens
        assert (await http.post("/api/chat", json=few)).status_code == 200


async def test_autoload_true_is_a_load_by_request(serve, tmp_path_factory) -> None:
    """For a client that may load models in other ways, too; the router's props say what holds."""
    table = model_table(make_models(tmp_path_factory), "a")
    router = await serve(table, router=["autoload = false"])
    async with router.client() as http:
        assert (await http.get("/props?autoload=false")).json()["models_autoload"] is False
        answer = await http.post("/v1/chat/completions?autoload=true", json=chat("a"))
        assert answer.status_code == 200


async def test_an_unlisted_model(serve, tmp_path_factory) -> None:
    """No list for clients has it, and no event; it answers by its name, and the admin sees it."""
    folder = make_models(tmp_path_factory)
    hidden = model_table(
        folder, "b", "unlisted = true", "presets = {x = {seed = 1}}", "group = 'g'"
    )
    router = await serve(hidden, model_table(folder, "a", "group = 'g'"))
    async with router.client() as http, aclosing(events(http)) as stream:
        await anext(stream)
        for name in ("b", "a"):
            assert (await http.post("/v1/chat/completions", json=chat(name))).status_code == 200
        seen = await until(stream, "a", "loaded")
        assert {event["model"] for event in seen} == {"a"}
        for path, key in (("/v1/models", "data"), ("/models", "data"), ("/api/tags", "models")):
            listed = (await http.get(path)).json()[key]
            assert [model.get("id", model.get("name")) for model in listed] == ["a"]
        assert (await http.get("/v1/models/b")).json()["status"]["value"] == "loaded"
        unknown = await http.post("/v1/chat/completions", json=chat("zzz"))
        assert "'a'" in unknown.text
        assert "'b'" not in unknown.text


async def test_a_decision_model_is_listed_as_one(serve, tmp_path) -> None:
    """Before it is loaded: clients choose by it."""
    file = tmp_path / "laya.gguf"
    keys = {"general.architecture": "laya", "laya.decision.type": "laya"}
    file.write_bytes(header(keys, tensors=0))
    router = await serve(f'[models.d]\npath = "{file}"\n[models.c]\nspawn.command = ["false"]\n')
    async with router.client() as http:
        listed = {each["id"]: each for each in (await http.get("/v1/models")).json()["data"]}
    outputs = {name: each["architecture"]["output_modalities"] for name, each in listed.items()}
    assert outputs == {"d": ["decisions"], "c": ["text"]}


async def test_a_model_that_sleeps(serve, tmp_path_factory) -> None:
    """List and events say so when its backend has freed its memory, and when it is awake again."""
    folder = make_models(tmp_path_factory)
    router = await serve(model_table(folder, "a", args=["--sleep-idle-seconds", "1"]))
    async with router.client() as http, aclosing(events(http)) as stream:
        await anext(stream)
        await http.post("/models/load", json={"model": "a"})
        assert (await until(stream, "a", "sleeping"))[-1]["event"] == "status_change"
        assert (await entry(http, "a"))["status"]["value"] == "sleeping"
        assert (await http.post("/v1/chat/completions", json=chat("a"))).status_code == 200
        (awake,) = await until(stream, "a", "loaded")
        assert awake["data"]["info"]["status"]["value"] == "loaded"
        await until(stream, "a", "sleeping")
        assert (await http.post("/models/unload", json={"model": "a"})).status_code == 200
        (gone,) = await until(stream, "a", "unloaded")
        assert gone["data"]["exit_code"] == 0


async def test_the_router_has_props_of_its_own(served) -> None:
    """By them llama.cpp's UI sees that there are models to choose from."""
    with trio.fail_after(LIMIT_S):
        async with served.client() as client:
            props = (await client.get("/props", params={"autoload": "false"})).json()
    assert (props["role"], props["models_autoload"]) == ("router", True)
    assert props["build_info"].startswith("b")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/models/load", {"model": "nobody"}, 404, "model_not_found"),
        ("POST", "/models/load", {}, 400, "invalid_request"),
        ("POST", "/models/unload", {"model": "nobody"}, 404, "model_not_found"),
        ("POST", "/models", {"model": "a"}, 400, "model_exists"),
        ("POST", "/models", {"model": "no-hub-name"}, 400, "hub_reference_invalid"),
        ("DELETE", "/models", None, 400, "invalid_request"),
        ("DELETE", "/models?model=a", None, 409, "model_in_use"),
        ("DELETE", "/models?model=nobody", None, 404, "model_not_found"),
        ("PUT", "/models/load", {"model": "a"}, 405, "method_not_allowed"),
    ],
)
async def test_mistakes_are_told(served, method, path, body, status, code) -> None:
    """Each in a sentence, and with a code."""
    with trio.fail_after(LIMIT_S):
        async with served.client() as client:
            answer = await client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_the_router_has_no_tools(served) -> None:
    """llama.cpp's UI asks for them when it opens; a refusal would be an error on its console."""
    tool = {"tool": "get_info", "params": {}}
    with trio.fail_after(LIMIT_S):
        async with served.client() as client:
            listed = await client.get("/tools")
            used = await client.post("/tools", json=tool)
    assert (listed.status_code, listed.json()) == (200, [])
    assert (used.status_code, list(used.json())) == (200, ["error"])


async def test_a_loading_model_can_be_unloaded(client) -> None:
    """It does not come back for the sake of the load that was asked for."""
    async with aclosing(events(client)) as stream:
        await anext(stream)
        await client.post("/models/load", json={"model": "a"})
        assert (await client.post("/models/unload", json={"model": "a"})).status_code == 200
        seen = await until(stream, "a", "unloaded")
    assert "loaded" not in [event["data"]["status"] for event in seen]


async def test_changes_need_the_token_if_they_shall(tmp_path, tmp_path_factory) -> None:
    """The list does not; looking for models anew does."""
    folder = make_models(tmp_path_factory)
    config = write_config(tmp_path, model_table(folder, "a"), router=['models_api = "admin"'])
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            for method, path in [
                ("POST", "/models/load"),
                ("POST", "/models/unload"),
                ("POST", "/models"),
                ("DELETE", "/models?model=a"),
                ("GET", "/models?reload=1"),
            ]:
                answer = await client.request(method, path)
                assert answer.status_code == 401, path
            assert (await client.get("/models")).status_code == 200
            token = (tmp_path / "state" / "admin-token").read_text().strip()
            client.headers["authorization"] = f"Bearer {token}"
            answer = await client.post("/models/load", json={"model": "a"})
            assert answer.json() == {"success": True}


async def test_a_key_for_some_models_sees_and_changes_those(tmp_path, tmp_path_factory) -> None:
    """It hears nothing of the others, and fetches and deletes none."""
    folder = make_models(tmp_path_factory)
    key = '\n[api_keys.one]\nkey = "sk-0123456789abcdef"\nmodels = ["a"]\n'
    config = write_config(tmp_path, model_table(folder, "a"), model_table(folder, "b"), key)
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            assert (await client.post("/models/load", json={"model": "a"})).status_code == 401
            assert (await client.get("/models/sse")).status_code == 401
            client.headers["authorization"] = "Bearer sk-0123456789abcdef"
            token = (tmp_path / "state" / "admin-token").read_text().strip()
            async with aclosing(events(client)) as stream:
                await anext(stream)
                for name, status in [("b", 404), ("a", 200)]:
                    answer = await client.post("/models/load", json={"model": name})
                    assert answer.status_code == status
                await until(stream, "a", "loaded")
                await client.post(
                    "/admin/models/load", json={"model": "b"}, headers={"x-admin-token": token}
                )  # which makes room for itself
                seen = await until(stream, "a", "unloaded")
                assert {event["model"] for event in seen} == {"a"}
            for method, path in [("POST", "/models"), ("DELETE", "/models?model=a")]:
                answer = await client.request(method, path, json={"model": "u/r"})
                assert answer.json()["error"]["code"] == "model_not_allowed"


async def test_fetch_use_and_delete(tmp_path) -> None:
    """A model comes from the hub, answers, and goes again, all by llama.cpp's API."""
    repo, name = "acme/tiny-GGUF", "acme/tiny-GGUF:Q4_K_M"
    folder = tmp_path / "hub" / repo
    folder.mkdir(parents=True)
    make_chat_model(folder / "tiny-Q4_K_M.gguf", name="tiny", seed=1)
    config = write_config(tmp_path, router=["drain_s = 0.5", "scan_caches = true"])
    environ: dict[str, Any] = dict.fromkeys(
        ("HF_TOKEN", "HF_HUB_OFFLINE", "LLAMA_CACHE", "XDG_CACHE_HOME"), ""
    )
    environ |= {"HOME": str(tmp_path), "NO_PROXY": "*", "HF_HUB_CACHE": str(tmp_path / "cache")}
    with trio.fail_after(LIMIT_S), HubServer(tmp_path / "hub") as server:
        environ |= {"HF_ENDPOINT": server.url}
        async with (
            serving(config, **environ) as router,
            router.client() as client,
            aclosing(events(client)) as stream,
        ):
            await anext(stream)
            assert (await client.post("/models", json={"model": name})).status_code == 200
            seen = []
            async for event in stream:
                seen.append(event["event"])
                if event["event"] in ("download_finished", "download_failed"):
                    break
            assert (seen[0], seen[-1]) == ("model_status", "download_finished"), seen
            found = await entry(client, name)
            assert (found["source"], found["can_remove"]) == ("cache", True)
            answer = await client.post("/v1/chat/completions", json=chat(name))
            assert answer.status_code == 200
            gone = await client.delete("/models", params={"model": name})
            assert gone.json() == {"success": True}
            async for event in stream:
                if event["event"] == "model_remove":
                    assert event["model"] == name
                    break
            assert (await client.get("/models")).json()["data"] == []


async def test_presets_can_be_chosen(start, stage) -> None:
    """They are listed, loaded and followed as models are; to delete one is refused."""
    table = stage.model("a", presets={"high": {"n": 1}}, aliases=["x"])
    router = await start({"a": table, "b": stage.model("b")})
    async with router.http() as client:
        for path in ("/v1/models", "/models"):
            listed = [entry["id"] for entry in (await client.get(path)).json()["data"]]
            assert listed == ["a", "a:high", "b"]
        tags = (await client.get("/api/tags")).json()["models"]
        assert [tag["name"] for tag in tags] == ["a", "a:high", "b"]
        assert len({tag["digest"] for tag in tags}) == 3
        async with aclosing(events(client)) as stream:
            await anext(stream)
            answer = await client.post("/models/load", json={"model": "a:high"})
            assert answer.json() == {"success": True}
            seen = await until(stream, "a:high", "loaded")
            assert seen[-1]["data"]["info"] == await entry(client, "x:high")
            await client.post("/models/unload", json={"model": "x:high"})
            await until(stream, "a:high", "unloaded")
        refused = [
            await client.delete("/models", params={"model": "a:high"}),
            await client.request("DELETE", "/api/delete", json={"model": "x:high"}),
        ]
    assert [answer.status_code for answer in refused] == [400, 400]
    assert all("'high' is a preset of the model 'a'" in answer.text for answer in refused)
