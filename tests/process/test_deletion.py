"""What the configuration uses is not deleted, and a file that is missing costs one model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio

from llama_router.models.tiny.chat import make_chat_model
from tests.process.real import (
    LIMIT_S,
    chat,
    make_models,
    model_table,
    run_cli,
    serving,
    write_config,
)

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded]

CHAT_PATH = "/v1/chat/completions"
UNSET = ("HF_TOKEN", "LLAMA_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HUGGINGFACE_HUB_CACHE")


@pytest.fixture
def models(tmp_path_factory) -> Path:
    """A folder with tiny models."""
    return make_models(tmp_path_factory)


def cached(folder: Path, name: str) -> Path:
    """Put a model into a hub cache in *folder*, as a download does; return its file."""
    repo = folder / "cache" / f"models--acme--{name}"
    blob = repo / "blobs" / ("0" * 64)
    file = repo / "snapshots" / ("a" * 40) / f"{name}-Q4_K_M.gguf"
    for path in (blob, file):
        path.parent.mkdir(parents=True)
    make_chat_model(blob, name=name, seed=1)
    file.symlink_to(os.path.relpath(blob, file.parent))
    return file


def environ(folder: Path) -> dict[str, Any]:
    return dict.fromkeys(UNSET, "") | {
        "HOME": str(folder),
        "NO_PROXY": "*",
        "HF_HUB_CACHE": str(folder / "cache"),
    }


async def test_what_the_configuration_uses_is_deleted_in_no_way(tmp_path, models) -> None:
    """Each of the four is refused before anything happens, and the router starts again."""
    files = [cached(tmp_path, name) for name in ("plain", "draft", "free")]
    plain, draft, free = files
    config = write_config(
        tmp_path,
        model_table(models, "a", args=("--model-draft", str(draft))),
        f'\n[models.m]\npath = "{plain}"\n',
        router=["scan_caches = true", "drain_s = 0.5", "models_api = 'open'"],
    )
    lines = config.read_text().splitlines()
    name = "acme/draft:Q4_K_M"
    env = environ(tmp_path)
    with trio.fail_after(LIMIT_S):
        async with serving(config, **env) as router, router.client() as client:
            token = (tmp_path / "state" / "admin-token").read_text().strip()
            admin = {"authorization": f"Bearer {token}"}
            listed = (await client.get("/v1/models")).json()["data"]
            removable = {entry["id"]: entry["can_remove"] for entry in listed}
            assert removable == {"a": False, "m": False, name: False, "acme/free:Q4_K_M": True}
            for model, said in ((name, "models.a.args[1] uses "), ("m", "models.m defines it")):
                for answer in (
                    await client.delete("/models", params={"model": model}),
                    await client.delete("/admin/models", params={"model": model}, headers=admin),
                    await client.request("DELETE", "/api/delete", json={"model": model}),
                ):
                    assert answer.status_code == 409, answer.text
                    assert f"{config} line " in answer.text
                    assert said in answer.text.replace("\\", "")
            error = (await client.delete("/models", params={"model": name})).json()["error"]
            assert (error["code"], error["type"]) == ("model_in_use", "invalid_request_error")
            for repo in ("acme/draft", "acme/plain"):
                given = await run_cli("rm", repo, "-c", str(config), folder=tmp_path, **env)
                assert given.returncode == 1
                assert b"because it is in use" in given.stderr
            gone = await client.delete("/models", params={"model": "acme/free:Q4_K_M"})
            assert gone.json() == {"success": True}
        assert [file.exists() for file in files] == [True, True, False]
        done = await run_cli("rm", "acme/draft", "-c", str(config), folder=tmp_path, **env)
        assert (done.returncode, done.stdout) == (1, b"")
        line = 1 + next(n for n, text in enumerate(lines) if str(draft) in text)
        assert f"router.toml line {line}: models.a.args[1] uses".encode() in done.stderr
        async with serving(config, **env) as router:
            assert len(router.named("router.ready")) == 1
    assert free.parent.parent.exists() is False


async def test_a_missing_file_costs_only_its_model(tmp_path, models) -> None:
    """At the start and in reloads; it is said everywhere, and the model works when it is back."""
    weights, projector = tmp_path / "later.gguf", tmp_path / "mmproj.gguf"
    config = write_config(
        tmp_path,
        model_table(models, "a", 'group = "g"'),
        model_table(tmp_path, "later", "keep_loaded = true"),
        model_table(models, "b", f'mmproj = "{projector}"'),
        "\n[models.nothing]\nspawn.command = ['/no/such/program']\n",
        router=["drain_s = 0.5"],
    )
    options = ("-c", str(config))
    with trio.fail_after(LIMIT_S):
        checked = await run_cli("check", str(config), folder=tmp_path)
        assert checked.returncode == 1
        line = 1 + config.read_text().splitlines().index(f'path = "{weights}"')
        error = f"{config}:{line}: error: models.later.path: {weights}: No such"
        assert error.encode() in checked.stderr
        assert b"3 of 4 models cannot be used now" in checked.stderr
        async with serving(config) as router, router.client() as client:
            listed = (await client.get("/v1/models")).json()["data"]
            failed = {entry["id"] for entry in listed if entry["status"].get("failed")}
            assert failed == {"later", "b", "nothing"}
            shown = await run_cli("ps", "-a", *options, folder=tmp_path)
            assert str(weights).encode() in shown.stdout
            assert (await client.post(CHAT_PATH, json=chat("a"))).status_code == 200
            answer = await client.post(CHAT_PATH, json=chat("later"))
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "model_file_missing"
            assert f"the file {weights} of model 'later' is not there" in answer.text
            assert "retry-after" not in answer.headers
            program = (await client.post(CHAT_PATH, json=chat("nothing"))).json()["error"]
            assert program["cause"] == "command_missing"
            reloaded = await run_cli("reload", *options, folder=tmp_path)
            assert reloaded.returncode == 0, reloaded.stderr
            assert [event["model"] for event in router.named("backend.spawned")] == ["a"]
            await router.event("config.applied")
            so_far = len(router.events)
            shutil.copy(models / "b.gguf", weights.with_suffix(".part"))
            weights.with_suffix(".part").rename(weights)
            await router.event("backend.ready", model="later")
            await router.event("config.applied", after=so_far)
            assert (await client.post(CHAT_PATH, json=chat("later"))).status_code == 200
            state = await run_cli("status", *options, folder=tmp_path)
            assert str(weights).encode() not in state.stdout
            assert str(projector).encode() in state.stdout


async def test_a_startup_model_without_its_file_lets_no_router_start(tmp_path) -> None:
    """The reason is said; the router that promises it would break its word."""
    table = model_table(tmp_path, "m")
    config = write_config(tmp_path, table, router=['startup_model = "m"'])
    with trio.fail_after(LIMIT_S):
        done = await run_cli("serve", "-c", str(config), "--port", "0", folder=tmp_path)
    assert done.returncode == 1
    assert b"m.gguf of model 'm' is not there" in done.stderr
