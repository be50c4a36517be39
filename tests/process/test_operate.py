"""The commands that operate a running router, as processes of their own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import trio

from tests.process.real import (
    LIMIT_S,
    RealRouter,
    endless_table,
    run_cli,
    serving,
    write_config,
)
from tests.process.terminal import terminal

pytestmark = pytest.mark.process


async def told(folder, *words: str, status: int = 0, **environment: str) -> tuple[str, str]:
    """Run a command with the configuration in *folder*; return what it printed."""
    done = await run_cli(*words, "-c", str(folder / "router.toml"), folder=folder, **environment)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def config(tmp_path):
    """A configuration with two models."""
    tables = [endless_table(tmp_path, name) for name in ("a", "b")]
    return write_config(tmp_path, *tables, router=["drain_s = 0.5"])


async def test_a_model_is_loaded_listed_and_unloaded(tmp_path, config) -> None:
    """``load``, ``ps`` and ``unload`` find the router by themselves."""
    with trio.fail_after(LIMIT_S):
        async with serving(config):
            assert await told(tmp_path, "load", "a") == ("a: ready\n", "")
            header, line = (await told(tmp_path, "ps"))[0].splitlines()
            assert header.split()[:2] == ["MODEL", "PHASE"]
            assert line.split()[:2] == ["a", "ready"]
            listed = json.loads((await told(tmp_path, "ps", "--all", "--json"))[0])
            assert [(m["id"], m["phase"]) for m in listed] == [("a", "ready"), ("b", "stopped")]
            assert await told(tmp_path, "unload", "a") == ("a: stopped\n", "")
            assert len((await told(tmp_path, "ps"))[0].splitlines()) == 1


async def test_ps_fits_into_a_narrow_terminal(tmp_path, config) -> None:
    """It is coloured, and leaves out what matters least."""
    with trio.fail_after(LIMIT_S):
        async with serving(config):
            await told(tmp_path, "load", "a")
            words = ("ps", "--all", "-c", str(config))
            async with terminal(*words, folder=tmp_path, columns=40) as screen:
                assert await screen.ended() == 0
            assert [line.split()[:2] for line in screen.lines] == [
                ["MODEL", "PHASE"],
                ["a", "ready"],
                ["b", "stopped"],
            ]
            assert "\x1b[32mready\x1b[0m" in screen.raw


async def test_a_load_shows_on_a_terminal_and_leaves_it_clean(tmp_path, config) -> None:
    """At the end there is one line, and the cursor is back."""
    with trio.fail_after(LIMIT_S):
        async with serving(config):
            words = ("load", "a", "-c", str(config))
            async with terminal(*words, folder=tmp_path) as screen:
                assert await screen.ended() == 0
            assert screen.lines == ["a: ready"]
            assert not screen.cursor_is_hidden


async def test_the_watch_is_live_and_leaves_the_terminal_clean(tmp_path, config) -> None:
    """It shows what happens, follows the window's size and a new router, and q leaves."""
    with trio.fail_after(LIMIT_S):
        async with terminal("ps", "--watch", "-c", str(config), folder=tmp_path) as screen:
            assert await screen.ended() == 1
            assert "no router is running" in screen.text
        async with serving(config) as router:
            words = ("ps", "--watch", "-c", str(config))
            async with terminal(*words, folder=tmp_path) as screen:
                await screen.shows("no model is loaded")
                await told(tmp_path, "load", "a")
                await screen.shows("a: ready")
                screen.resize(40, 10)
                await screen.shows("MODEL")
                assert max(map(len, screen.lines)) <= 40
                router.signal(signal.SIGTERM)
                await router.process.wait()
                await screen.shows("waiting for it")
                async with serving(config) as second:
                    await screen.shows("no model is loaded")
                    assert second.process.pid != router.process.pid
                    screen.type("q")
                    assert await screen.ended() == 0
                assert not screen.cursor_is_hidden
                assert screen.raw.endswith("\x1b[?1049l"), "the former screen is back"


async def test_the_watch_needs_a_terminal(tmp_path, config) -> None:
    """On a pipe it says what to use."""
    with trio.fail_after(LIMIT_S):
        async with serving(config):
            _, error = await told(tmp_path, "ps", "--watch", status=2)
            assert error == "error: --watch needs a terminal\n  for scripts there is --json\n"


async def test_several_models_are_loaded_and_all_unloaded(tmp_path, config) -> None:
    """One that cannot be does not hinder the next; the status is 1 then."""
    with trio.fail_after(LIMIT_S):
        async with serving(config):
            out, error = await told(tmp_path, "load", "a", "c", "b", status=1)
            assert out == "a: ready\nb: ready\n"
            assert error == "error: no model or alias is named 'c'\n  there are a and b\n"
            assert (await told(tmp_path, "unload", "--all"))[0] == "b: stopped\n"
            assert (await told(tmp_path, "unload", "-a"))[0] == "no model is loaded\n"


async def test_status_says_how_it_is(tmp_path, config) -> None:
    """Version, address, configuration and the number of models."""
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            out, _ = await told(tmp_path, "status")
            assert f"listening on {router.url}\n" in out
            assert f"configuration {config}: started\n" in out
            assert "models: 2 stopped\n" in out
            state = json.loads((await told(tmp_path, "status", "--json"))[0])
            assert state["pid"] == router.process.pid


async def test_settings_are_changed_and_mistakes_refused(tmp_path, config) -> None:
    """``set`` edits the file that the router reads, or says what would be wrong with it."""
    with trio.fail_after(LIMIT_S):
        async with serving(config):
            out, _ = await told(tmp_path, "set", "a", "ttl_s=60", 'aliases=["x y"]', "group=g")
            assert out.splitlines()[:2] == [f"--- {config}", f"+++ {config}"]
            added = [line for line in out.splitlines()[2:] if line.startswith("+")]
            assert added == ["+ttl_s = 60", '+aliases = ["x y"]', '+group = "g"']
            assert out.endswith("configuration: applied\napplied without restart: a\n")
            text = config.read_text()
            assert all(line in text for line in ("ttl_s = 60", 'aliases = ["x y"]', 'group = "g"'))
            shown = json.loads((await told(tmp_path, "set", "x y"))[0])
            assert (shown["ttl_s"], shown["group"]) == (60, "g")
            out, _ = await told(tmp_path, "set", "a", "ttl=5m", "--unset", "group")
            changed = [line for line in out.splitlines()[2:] if line.startswith(("+", "-"))]
            assert changed == ["-ttl_s = 60", '+ttl_s = "5m"', '-group = "g"']
            assert "group" not in config.read_text()
            assert json.loads((await told(tmp_path, "set", "a"))[0])["ttl_s"] == 300
            out, _ = await told(tmp_path, "set", "a", "ctx=2048", "--dry-run")
            assert '+args = ["--ctx-size", "2048"]' in out.splitlines()
            assert "nothing was written" in out
            assert "--ctx-size" not in config.read_text()
            await told(tmp_path, "set", "a", "ctx=2048")
            assert 'args = ["--ctx-size", "2048"]' in config.read_text()
            out, _ = await told(tmp_path, "set", "--router", "drain_s=soon", status=1)
            assert "router.drain_s: expected a number of seconds" in out
            assert "soon" not in config.read_text()
            _, error = await told(tmp_path, "set", "a", "nonsense", status=2)
            assert "'nonsense' is not KEY=VALUE" in error


async def test_a_reload_says_what_is_wrong(tmp_path, config) -> None:
    """With lines, and with status 1."""
    with trio.fail_after(LIMIT_S):
        async with serving(config):
            out, _ = await told(tmp_path, "reload")
            assert out == "configuration: applied\nno model has changed since it was read last\n"
            config.write_text("[router]\nprot = 1\n")
            out, _ = await told(tmp_path, "reload", "--url", await url_of(tmp_path), status=1,
                                LLAMA_ROUTER_ADMIN_TOKEN=token_of(tmp_path))  # fmt: skip
            assert "line 2: router.prot: unknown key" in out


def token_of(folder) -> str:
    return (folder / "state" / "admin-token").read_text().strip()


async def url_of(folder) -> str:
    return str(json.loads(await trio.Path(folder / "state" / "router.json").read_text())["urls"][0])


async def test_a_wrong_token_is_refused(tmp_path, config) -> None:
    """The command says so, and its status is 1."""
    with trio.fail_after(LIMIT_S):
        async with serving(config):
            _, error = await told(tmp_path, "ps", status=1, LLAMA_ROUTER_ADMIN_TOKEN="x" * 20)
            assert error.startswith(
                "error: this is not the admin token\n  the one that was sent is"
            )


async def test_without_a_router_it_says_where_it_looked(tmp_path, config) -> None:
    """Also if one was there, and is gone."""
    with trio.fail_after(LIMIT_S):
        async with serving(config):
            runtime = tmp_path / "state" / "router.json"
            assert json.loads(runtime.read_text())["pid"] != os.getpid()
        assert not runtime.exists()
        _, error = await told(tmp_path, "ps", status=1)
        assert f"looked for {runtime}" in error


async def test_secrets_are_for_their_owner_only(tmp_path, config) -> None:
    """The token is in a file of mode 0600, and neither in the runtime file nor in the log."""
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            path = tmp_path / "state" / "admin-token"
            assert path.stat().st_mode & 0o777 == 0o600
            token = token_of(tmp_path)
            assert len(token) >= 40
            await told(tmp_path, "status")
            assert token not in (tmp_path / "state" / "router.json").read_text()
            assert_silent(router, token)
        async with serving(config) as router:
            assert token_of(tmp_path) == token, "it stays the same"
            assert_silent(router, token)


def assert_silent(router: RealRouter, token: str) -> None:
    assert token not in repr(router.events)
    assert not any(token in line for line in router.said)
    command = Path(f"/proc/{router.process.pid}/cmdline").read_text()
    assert token not in command


async def test_a_token_in_a_rejected_file_does_not_lock_the_commands_out(tmp_path) -> None:
    """The running router still has the former one, and it says what is wrong with the file."""
    table = endless_table(tmp_path, "a")
    config = write_config(tmp_path, table, router=['admin_token = "first-0123456789"'])
    kept = tmp_path / "state" / "router.token"
    with trio.fail_after(LIMIT_S):
        async with serving(config):
            write_config(tmp_path, table, router=['admin_token = "second-0123456789"', "x = 1"])
            said, _ = await told(tmp_path, "reload", status=1)
            assert "unknown key 'x'" in said
            said, _ = await told(tmp_path, "status")
            assert "unknown key 'x'" in said
            write_config(tmp_path, table, router=['admin_token = "second-0123456789"'])
            await told(tmp_path, "reload")
            await told(tmp_path, "status")
            assert kept.read_text() == "second-0123456789\n"
            write_config(tmp_path, table)
            await told(tmp_path, "reload")
            await told(tmp_path, "status")
            assert not kept.exists()


async def test_the_token_can_come_from_the_configuration_or_a_credential(tmp_path) -> None:
    """The commands find it there, too."""
    token = "configured-0123456789"
    config = write_config(
        tmp_path, endless_table(tmp_path, "a"), router=[f'admin_token = "{token}"', "drain_s = 1"]
    )
    with trio.fail_after(LIMIT_S):
        async with serving(config):
            await told(tmp_path, "load", "a")
            shown, _ = await told(tmp_path, "status", "--json")
            assert token not in shown
            _, error = await told(
                tmp_path, "ps", status=1, LLAMA_ROUTER_ADMIN_TOKEN=token_of(tmp_path)
            )
            assert "not the admin token" in error
            assert "is from $LLAMA_ROUTER_ADMIN_TOKEN" in error
