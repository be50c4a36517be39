"""Edits of router.toml in every way that people and programs make them, under a running router."""

from __future__ import annotations

import gc
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit
import trio

from llama_router.config import watcher
from llama_router.config.file import ConfigFile, read_file
from llama_router.config.load import LoadedConfig, load_config, load_file
from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.reload import ReloadOutcome, ReloadPlan, ReloadReport
from llama_router.dispatch import missing_files
from tests.limits import LIMIT_S
from tests.opens import count_opens
from tests.process.harness import Router, post

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def _look_often(monkeypatch) -> None:
    """Look every few milliseconds, so that the tests are quick."""
    monkeypatch.setattr(watcher, "POLL_S", 0.01)
    monkeypatch.setattr(watcher, "SETTLE_S", 0.01)


def text(router: Router, **settings: Any) -> str:
    """Return the configuration that *router* was started with, and other settings."""
    table = {**router.document["router"], **settings}
    return tomlkit.dumps({**router.document, "router": table})


def replace(path: Path, content: str) -> None:
    """Write like an editor: another file, renamed."""
    temporary = path.with_name(f"{path.name}~")
    temporary.write_text(content)
    temporary.replace(path)


async def drain_s(router: Router, expected: float) -> None:
    """Wait until the setting is in force."""
    dispatcher = router.running.dispatcher
    while dispatcher.config.router.drain_s != expected:
        await dispatcher.feed.wait_after(dispatcher.feed.last)  # each reload is among them


async def test_edits_are_noticed_however_they_are_made(start, stage) -> None:
    """In place, renamed over, removed and back: each is applied, without anybody asking."""
    router = await start({"a": stage.model("a")})

    def anew(path: Path, content: str) -> None:
        path.unlink()
        path.write_text(content)

    edits: list[Callable[[Path, str], object]] = [Path.write_text, replace, replace, anew]
    for number, edit in enumerate(edits, 1):
        edit(router.path, text(router, drain_s=float(number)))
        await drain_s(router, number)
    assert router.events.named("config.rejected") == []


async def test_links_that_are_swapped_are_edits(start, stage, tmp_path) -> None:
    """As mounted configurations do it: the file is a link through a link to a folder."""
    router = await start({"a": stage.model("a")})
    folder = tmp_path / "mounted"
    for number in (1, 2, 3):
        (folder / f"v{number}").mkdir(parents=True)
        (folder / f"v{number}" / "router.toml").write_text(text(router, drain_s=float(number)))
        (folder / "next").symlink_to(f"v{number}")
        (folder / "next").replace(folder / "now")
        if number == 1:
            router.path.symlink_to(folder / "now" / "router.toml")
        await drain_s(router, number)


async def test_a_vanished_file_changes_nothing(start, stage, tmp_path) -> None:
    """Neither does one that is touched, or written again as it was."""
    router = await start({"a": stage.model("a")})
    content = text(router, drain_s=1.0)
    router.path.write_text(content)
    await drain_s(router, 1)
    shutil.move(router.path, tmp_path / "away")
    await trio.sleep(0.1)  # nothing is to happen: there is no event to wait for
    shutil.move(tmp_path / "away", router.path)
    os.utime(router.path)
    replace(router.path, content)
    replace(router.path, text(router, drain_s=2.0))
    await drain_s(router, 2)
    assert len(router.events.named("config.applied")) == 2
    assert router.events.named("config.rejected") == []


async def test_a_file_that_stays_away_is_rejected(start, stage, tmp_path, monkeypatch) -> None:
    """It is not "applied" any more; as it was, it is in force again, restart needs included."""
    monkeypatch.setattr(watcher, "GONE_S", 0.02)
    router = await start({"a": stage.model("a")})
    router.path.write_text(text(router, drain_s=1.0, log_files=9))
    assert (await router.events.wait("config.applied"))["needs_router_restart"] == ("log_files",)
    shutil.move(router.path, tmp_path / "away")
    rejected = await router.events.wait("config.rejected")
    assert "is gone" in rejected["problems"][0]
    report = await router.running.reload()
    assert report.outcome is ReloadOutcome.REJECTED
    assert report.needs_router_restart == ("log_files",)
    shutil.move(tmp_path / "away", router.path)
    while len(router.events.named("config.applied")) < 2:
        await router.running.dispatcher.feed.wait_after(router.running.dispatcher.feed.last)


async def test_an_emptied_file_changes_nothing(start, stage) -> None:
    """A full disk leaves such a file behind; a comment alone is what somebody wrote."""
    router = await start({"a": stage.model("a")})
    router.path.write_text(text(router, drain_s=1.0))
    await drain_s(router, 1)
    router.path.write_text("")
    rejected = await router.events.wait("config.rejected")
    assert "the file is empty" in rejected["problems"][0]
    router.path.write_text("# nothing\n")
    applied = await router.events.wait("config.applied", removed=["a"])
    assert applied["added"] == []


async def test_what_is_no_file_is_not_waited_for(start, stage) -> None:
    """Reading a FIFO would last until somebody writes into it; the next file is seen."""
    router = await start({"a": stage.model("a")})
    router.path.write_text(text(router, drain_s=1.0))
    await drain_s(router, 1)
    router.path.unlink()
    os.mkfifo(router.path)
    rejected = await router.events.wait("config.rejected")
    assert rejected["problems"] == [f"cannot read {router.path}: it is not a file"]
    replace(router.path, text(router, drain_s=2.0))
    await drain_s(router, 2)


async def test_a_mistake_is_said_once_and_the_cure_is_noticed(start, stage) -> None:
    """With all its lines; the router goes on with what it has."""
    router = await start({"a": stage.model("a")})
    router.path.write_text("[router]\ndrain_s = 'x'\nprot = 1\n")
    rejected = await router.events.wait("config.rejected")
    assert [problem.split(":")[0] for problem in rejected["problems"]] == ["line 2", "line 3"]
    assert router.running.dispatcher.config.router.drain_s == 5.0
    replace(router.path, text(router, drain_s=1.0))
    await drain_s(router, 1)
    assert len(router.events.named("config.rejected")) == 1


async def test_a_mistake_is_logged_once_if_a_reload_is_requested_too(start, stage) -> None:
    """The poll rejects a file that was just saved, then the request does; the answer names it."""
    router = await start({"a": stage.model("a")})
    router.path.write_text("[router]\nprot = 1\n")
    await router.events.wait("config.rejected")
    report = await router.running.reload()
    assert (report.outcome, len(report.problems)) == ("rejected", 1)
    router.path.write_text("[router]\nprot = 1\nhots = 2\n")
    await router.running.reload()
    logged = router.events.named("config.rejected")
    assert [len(each["problems"]) for each in logged] == [1, 2]


async def test_a_file_that_could_not_be_read_is_good_again_as_it_was(
    start, stage, tmp_path
) -> None:
    """Nobody is told for ever that it cannot be used."""
    router = await start({"a": stage.model("a")})
    router.path.write_text(text(router, drain_s=1.0))
    await drain_s(router, 1)
    shutil.move(router.path, tmp_path / "away")
    router.path.mkdir()
    await router.events.wait("config.rejected")
    router.path.rmdir()
    shutil.move(tmp_path / "away", router.path)
    os.utime(router.path)
    while len(router.events.named("config.applied")) < 2:
        await router.running.dispatcher.feed.wait_after(router.running.dispatcher.feed.last)


async def test_a_file_that_names_a_missing_model_is_applied_without_it(
    start, stage, tmp_path, monkeypatch
) -> None:
    """It is read again when the model is there, and then nothing is said of it any more."""
    monkeypatch.setattr(missing_files, "POLL_S", 0.01)
    router = await start({"a": stage.model("a")})
    weights = tmp_path / "b.gguf"
    router.document["models"]["b"] = stage.model("b", path=str(weights))
    router.path.write_text(tomlkit.dumps(router.document))
    applied = await router.events.wait("config.applied")
    assert applied["added"] == ["b"]
    doubted = await router.events.wait("config.doubted")
    assert "b.gguf: No such file" in doubted["problem"]
    answer = await router.ask(post("/v1/echo", "b"))
    assert (answer.status, answer.error["code"]) == (503, "model_file_missing")
    assert (await router.ask(post("/v1/echo", "a"))).status == 200
    weights.touch()
    again = await router.events.wait("config.applied", added=[])
    assert again["restarted"] == []
    while router.running.dispatcher.failed():
        await router.running.dispatcher.feed.wait_after(router.running.dispatcher.feed.last)
    assert (await router.ask(post("/v1/echo", "b"))).status == 200
    problems = [event["problem"] for event in router.events.named("config.doubted")]
    assert len([problem for problem in problems if "No such file" in problem]) == 1


async def test_an_unchanged_file_is_not_applied_again_because_a_model_is_missing(
    start, stage, tmp_path, monkeypatch
) -> None:
    """It is read when its time stamp changes, and found to be the same."""
    router = await start({"a": stage.model("a")})
    router.document["models"]["b"] = stage.model("b", path=str(tmp_path / "b.gguf"))
    text = tomlkit.dumps(router.document)
    router.path.write_text(text)
    await router.events.wait("config.applied", added=["b"])
    looked, look = trio.Event(), watcher.Watcher._reload

    async def look_once(self: watcher.Watcher, *args: Any) -> None:
        await look(self, *args)
        looked.set()

    monkeypatch.setattr(watcher.Watcher, "_reload", look_once)
    replace(router.path, text)  # it looks changed
    await looked.wait()
    router.document["models"]["a"]["ttl_s"] = 100.0
    router.path.write_text(tomlkit.dumps(router.document))
    await router.events.wait("config.applied", retuned=["a"])
    assert len(router.events.named("config.applied")) == 2


async def test_a_model_whose_file_vanished_is_tried_again_when_it_is_back(
    start, stage, tmp_path, monkeypatch
) -> None:
    """It is refused with a reason until then, and not for the rest of its cool-down."""
    monkeypatch.setattr(missing_files, "POLL_S", 0.01)
    weights = tmp_path / "a.gguf"
    weights.touch()
    router = await start({"a": stage.model("a", path=str(weights))}, cooldown_s=3600)
    weights.unlink()
    answer = await router.ask(post("/v1/echo", "a"))
    assert (answer.status, answer.error["code"]) == (503, "model_file_missing")
    assert router.spawned() == []
    failed = await router.events.wait("backend.failed", model="a")
    assert failed["cause"] == "file_missing"
    news = router.running.dispatcher.feed
    weights.touch()
    while router.running.dispatcher.failed():
        await news.wait_after(news.last)
    assert (await router.ask(post("/v1/echo", "a"))).status == 200


async def test_half_a_file_is_never_used(tmp_path) -> None:
    """One that is written anew just while it is read is read again when it is at rest."""
    path = tmp_path / "router.toml"
    path.write_text('[models.a]\nspawn.command = ["a"]\n')
    applied = []
    halves = ["[router]\n", "[router]\nmistake = 1\n"]
    whole = '[models.a]\nspawn.command = ["b"]\n'

    def load(file: ConfigFile, _: Config) -> LoadedConfig:
        if not halves:
            return load_file(file)
        path.write_text(halves.pop(0))
        try:
            return load_file(read_file(path))
        finally:
            path.write_text(whole)

    async def apply(config: Config, _: ReloadPlan) -> frozenset[ModelId]:
        applied.append(list(config.models))
        return frozenset()

    loaded = load_config(path)
    heard: list[ReloadReport] = []
    news = trio.Event()

    def hear(report: ReloadReport) -> None:
        heard.append(report)
        news.set()

    watched = watcher.Watcher(
        loaded, current=lambda: loaded.config, apply=apply, load=load, on_report=hear
    )
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watched.run)
            path.write_text("# one\n")
            await news.wait()
            nursery.cancel_scope.cancel()
    assert applied == [["a"]]
    assert [report.outcome for report in heard] == ["applied"]


async def test_a_reload_opens_the_file_once(start, stage, monkeypatch) -> None:
    """Asked for or noticed, with a mistake or without."""
    router = await start({"a": stage.model("a")})
    opened = count_opens(monkeypatch, router.path)
    replace(router.path, text(router, drain_s=1.0))
    await drain_s(router, 1)
    assert len(opened) == 1
    opened.clear()
    monkeypatch.setattr(watcher, "POLL_S", 60.0)  # then the watch has no part in what follows
    assert (await router.running.reload()).outcome == "applied"
    await router.running.reload()  # the watch has gone to rest by its end
    opened.clear()
    assert (await router.running.reload()).outcome == "applied"
    assert len(opened) == 1
    opened.clear()
    replace(router.path, "[router]\nprot = 1\n")
    assert (await router.running.reload()).outcome == "rejected"
    assert len(opened) == 1


async def test_the_latest_edit_wins(start, stage) -> None:
    """Edits and asks that pile up while a reload is under way are not lost."""
    router = await start({"a": stage.model("a")})
    for number in range(1, 30):
        replace(router.path, text(router, drain_s=float(number)))
        router.requests.reload()
        if number % 7 == 0:
            await trio.sleep(0.005)  # let one be under way
    await drain_s(router, 29)


async def test_a_reload_that_is_asked_for_sees_the_file_as_it_is_then(start, stage) -> None:
    """Every asker gets a report of a look that began after its question."""
    router = await start({"a": stage.model("a")})
    for number in range(1, 20):
        replace(router.path, text(router, drain_s=float(number)))
        report = await router.running.reload()
        assert report.outcome == "applied"
        assert router.running.dispatcher.config.router.drain_s == number


async def test_a_hundred_random_edits_under_load(start, stage) -> None:
    """Not one request to a model that they do not affect fails, and it keeps its process."""
    models = {
        "steady": stage.model("steady", group="g"),
        "edited": stage.model("edited", group="g"),
    }
    router = await start(models)
    chance = random.Random(1)
    served = failed = 0
    done = trio.Event()

    async def client(model: str, *, may_fail: bool) -> None:
        nonlocal served, failed
        connection = await router.connect()
        while not done.is_set():
            await connection.send(post("/v1/chat/completions", model))
            answer = await connection.answer()
            if may_fail:
                continue
            served += answer.status == 200
            failed += answer.status != 200

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(lambda: client("steady", may_fail=False))
            nursery.start_soon(lambda: client("edited", may_fail=True))
            await router.events.wait("request.completed", model="steady")
            process = (await stage.backend("steady")).pid
            for number in range(100):
                edit(chance, router, number)
                if chance.random() < 0.3:
                    await router.running.reload()
                else:  # people are not in step with the watcher
                    await trio.sleep(chance.random() * 0.02)
            replace(router.path, text(router, drain_s=99.0))
            await drain_s(router, 99)
            done.set()
    backend = router.running.dispatcher.backend(ModelId("steady"))
    assert backend is not None
    assert backend.pid == process
    assert failed == 0
    assert served > 100
    assert router.spawned().count("steady") == 1
    assert len(router.events.named("config.applied")) > 20


def edit(chance: random.Random, router: Router, number: int) -> None:
    """Make one random edit that does not concern the model 'steady'."""
    document = tomlkit.parse(text(router, drain_s=float(number % 50 + 1)))
    models: Any = document["models"]
    match chance.randrange(7):
        case 0:
            models["edited"]["spawn"]["env"] = {"NUMBER": str(number)}
        case 1:
            del models["edited"]
        case 2:
            models["edited"]["aliases"] = [f"alias-{number}"]
        case 3:
            models[f"new-{number}"] = {"spawn": {"command": ["true"]}}
        case 4:
            document["router"]["max_queue_wait_s"] = 30.0 + number
        case 5:
            models["steady"]["ttl_s"] = 100.0 + number  # a change that costs nothing
        case _:
            document["router"]["mistake"] = number
    content = tomlkit.dumps(document)
    if chance.random() < 0.5:
        replace(router.path, content)
    else:
        router.path.write_text(content)


async def test_an_edit_beside_a_reload_leaves_the_interpreter_as_it_was(tmp_path) -> None:
    """Both threads change process-wide settings; the reload ends while the edit still reads."""
    before = sys.getswitchinterval(), gc.get_threshold()
    path = tmp_path / "router.toml"
    path.write_text("")
    loaded = load_config(path)
    reloading, editing, reloaded = (threading.Event() for _ in range(3))

    on_disk = path.read_bytes()

    def load(file: ConfigFile, _: Config) -> LoadedConfig:
        if file.data != on_disk:
            editing.set()
            assert reloaded.wait(10)
        elif not reloading.is_set():
            reloading.set()
            assert editing.wait(10)
        return load_file(file)

    async def apply(_: Config, __: ReloadPlan) -> frozenset[ModelId]:
        reloaded.set()  # what the reload's thread had changed is restored
        return frozenset()

    watched = watcher.Watcher(loaded, current=lambda: loaded.config, apply=apply, load=load)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watched.run)
            async with trio.open_nursery() as both:
                both.start_soon(watched.reload)
                await trio.to_thread.run_sync(reloading.wait)
                await watched.edit(lambda _: "# edited\n", expected=None)
            nursery.cancel_scope.cancel()
    assert (sys.getswitchinterval(), gc.get_threshold()) == before
