"""The command line: what it prints, how it exits, which signals it obeys."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from llama_router.build_kind import version_line
from llama_router.cli.options import MAX_LINES
from llama_router.control.admin.logs import MAX_TAIL
from tests.process.real import (
    LIMIT_S,
    ROOT,
    RealRouter,
    alive,
    chat,
    endless_table,
    environment,
    make_models,
    model_table,
    run_cli,
    serving,
    started,
    write_config,
)

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

CHAT_PATH = "/v1/chat/completions"

FIVE_MISTAKES = """\
[router]
port = 99999
conection_timeout_s = 5

[models.a]
path = "missing.gguf"

[models.b]
spawn.command = ["no-such-folder/server", "$prot"]
aliases = "b2"
"""

EXITS = f"""
[models.exits]
spawn.command = ["{sys.executable}", "-c", "print('out of paper'); raise SystemExit(3)"]
"""


@pytest.fixture
def models(tmp_path_factory) -> Path:
    """The folder of the models."""
    pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
    return make_models(tmp_path_factory)


# -- commands that end by themselves ------------------------------------------------------


async def test_version(tmp_path) -> None:
    """``--version`` prints the version, and in brackets the build and the version of Python."""
    done = await run_cli("--version", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    line = done.stdout.decode()
    assert line == f"{version_line()}\n"
    assert re.match(r"[0-9.]+ \((?:pure Python|compiled), Python 3\.[0-9.]+\)", line)


async def test_without_a_command_the_commands_are_listed(tmp_path) -> None:
    """``python -m llama_router`` alone explains itself."""
    done = await run_cli(folder=tmp_path)
    for command in (b"serve", b"check", b"init", b"demo"):
        assert command in done.stdout


@pytest.mark.parametrize("option", [(), ("--config",), ("-c",)])
async def test_check_accepts_a_good_file(tmp_path, option) -> None:
    """A good file is said to be good, with the number of its models, and the status is 0."""
    config = write_config(tmp_path, endless_table(tmp_path, "a"))
    done = await run_cli("check", *option, str(config), folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == f"{config}: ok, 1 model\n"


async def test_check_reports_every_mistake_with_its_line(tmp_path) -> None:
    """All five mistakes are reported at once, each as FILE:LINE: error, and the status is 1."""
    config = tmp_path / "router.toml"
    config.write_text(FIVE_MISTAKES)
    done = await run_cli("check", str(config), folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    errors = [line for line in done.stderr.decode().splitlines() if ": error: " in line]
    places = {line.split(": error: ")[0] for line in errors}
    assert places >= {f"{config}:{number}" for number in (2, 3, 6, 9, 10)}, errors
    for word in ("router.port", "connection_timeout_s", "missing.gguf", "prot", "aliases"):
        assert any(word in line for line in errors), (word, errors)


async def test_check_of_a_missing_file(tmp_path) -> None:
    """A file that is not there is one clear sentence and status 1."""
    done = await run_cli("check", "nowhere.toml", folder=tmp_path)
    assert done.returncode == 1
    assert b"nowhere.toml" in done.stderr
    assert b"Traceback" not in done.stderr


async def test_init_writes_the_example(tmp_path) -> None:
    """``init`` writes a router.toml that ``check`` accepts, and says what to do next."""
    done = await run_cli("init", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"serve --config router.toml" in done.stdout
    assert "router" in tomllib.loads((tmp_path / "router.toml").read_text())
    assert (await run_cli("check", "router.toml", folder=tmp_path)).returncode == 0


async def test_init_writes_the_schema_for_editors(tmp_path) -> None:
    """Beside the example, under the name that its first line has; ``schema`` prints the same."""
    await run_cli("init", "new/router.toml", folder=tmp_path)
    first = (tmp_path / "new" / "router.toml").read_text().splitlines()[0]
    schema = (tmp_path / "new" / first.removeprefix("#:schema ")).read_bytes()
    printed = await run_cli("schema", folder=tmp_path)
    assert (printed.returncode, printed.stdout, printed.stderr) == (0, schema, b"")


async def test_init_never_overwrites(tmp_path) -> None:
    """An existing file stays as it is, and the status is 1."""
    config = tmp_path / "router.toml"
    config.write_text("# mine\n")
    done = await run_cli("init", folder=tmp_path)
    assert done.returncode == 1
    assert b"router.toml" in done.stderr
    assert config.read_text() == "# mine\n"


async def test_serve_without_a_configuration(tmp_path) -> None:
    """Without any configuration ``serve`` says where it looked and how to get one."""
    done = await run_cli("serve", folder=tmp_path)
    assert done.returncode == 1
    assert b"there is no configuration" in done.stderr
    assert b"llama-router init" in done.stderr
    assert b"Traceback" not in done.stderr


async def test_serve_on_a_taken_port(tmp_path) -> None:
    """A port that somebody has is one clear sentence, and the status is 1."""
    config = write_config(tmp_path, endless_table(tmp_path, "a"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = await run_cli("serve", "--config", str(config), "--port", port, folder=tmp_path)
    assert done.returncode == 1
    assert f"port {port}".encode() in done.stderr
    assert b"another program listens there" in done.stderr
    assert b"Traceback" not in done.stderr


async def test_serve_with_an_unknown_startup_model(tmp_path) -> None:
    """A startup_model that is not configured keeps the router from starting, and is named."""
    config = write_config(
        tmp_path, endless_table(tmp_path, "a"), router=['startup_model = "nobody"']
    )
    done = await run_cli("serve", "--config", str(config), folder=tmp_path)
    assert done.returncode == 1
    assert b"startup_model" in done.stderr
    assert b"nobody" in done.stderr


async def test_serve_with_a_startup_model_that_does_not_start(tmp_path) -> None:
    """If the startup model cannot be loaded the router ends with its reason and status 1."""
    router = ['startup_model = "exits"', "max_restarts = 0"]
    config = write_config(tmp_path, EXITS, router=router)
    done = await run_cli("serve", "--config", str(config), "--port", "0", folder=tmp_path)
    assert done.returncode == 1
    assert b"exited with code 3" in done.stderr
    assert b"out of paper" in done.stderr
    assert b"router.ready" not in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.embedded
async def test_demo_shows_a_swap(tmp_path) -> None:
    """``demo --once`` makes its models, swaps them, prints the times, and exits with 0."""
    pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
    done = await run_cli("demo", "--once", "--folder", "demo", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"swap: stop tiny-a, load tiny-b, answer" in done.stdout
    assert (tmp_path / "demo" / "tiny-a.gguf").exists()


LIBGOMP_IS_MISSING = """
raise ImportError("libgomp.so.1: cannot open shared object file: No such file or directory")
"""

NEEDS_LIBGOMP = b"the shared library libgomp.so.1 is missing. Install it: 'apt install libgomp1'"


@pytest.fixture
def broken_xllamacpp(tmp_path) -> dict[str, str]:
    """The environment of a machine where the embedded server cannot be loaded."""
    if shutil.which("llama-server"):
        pytest.skip("a llama-server on PATH takes the place of the embedded one")
    package = tmp_path / "site" / "xllamacpp"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "xllamacpp.py").write_text(LIBGOMP_IS_MISSING)
    return {"PYTHONPATH": f"{package.parent}{os.pathsep}{ROOT}"}


@pytest.mark.embedded
async def test_demo_without_a_library_of_the_system(tmp_path, broken_xllamacpp) -> None:
    """It says before it makes or starts anything which one is missing, and what to install."""
    pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
    done = await run_cli("demo", "--folder", "demo", folder=tmp_path, **broken_xllamacpp)
    assert (done.returncode, done.stdout) == (1, b"")
    assert NEEDS_LIBGOMP in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "demo").exists()


@pytest.mark.embedded
async def test_a_model_without_a_library_of_the_system(tmp_path, models, broken_xllamacpp) -> None:
    """`check --commands` warns of it, and a start fails with the same words, said once."""
    config = tmp_path / "router.toml"
    config.write_text(
        '[router]\nstartup_model = "a"\nscan_caches = false\n'
        f'[models.a]\npath = "{models}/a.gguf"\n'
    )
    for command in (["check", "--commands"], ["serve", "--port", "0"]):
        done = await run_cli(*command, "--config", str(config), folder=tmp_path, **broken_xllamacpp)
        assert NEEDS_LIBGOMP in done.stderr
    assert done.returncode == 1
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["reason"].count("libgomp.so.1") == 1


@pytest.mark.embedded
async def test_demo_on_a_port_that_is_taken(tmp_path) -> None:
    """It says what to do about it; its own configuration is not what to change."""
    pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = await run_cli("demo", "--port", port, "--folder", "demo", folder=tmp_path)
    assert done.returncode == 1
    assert b"listen_failed" in done.stderr
    assert b'{"ts":' not in done.stderr
    assert b"llama-router demo --port" in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize("port", ["99999", "-1"])
@pytest.mark.parametrize("command", ["serve", "demo"])
async def test_a_port_that_does_not_exist_is_a_wrong_option(tmp_path, command, port) -> None:
    """The command line was wrong, not router.toml."""
    done = await run_cli(command, f"--port={port}", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"from 0 to 65535" in done.stderr


@pytest.mark.parametrize("lines", ["10001", "-1"])
async def test_more_lines_than_are_told_are_a_wrong_option(tmp_path, lines) -> None:
    """The message is about the option, whatever the router calls it."""
    assert MAX_LINES == MAX_TAIL
    done = await run_cli("logs", f"--lines={lines}", "a", folder=tmp_path)
    assert done.returncode == 2
    assert b"--lines" in done.stderr
    assert b"from 0 to 10000" in done.stderr


async def test_output_that_cannot_be_written_is_a_sentence(tmp_path) -> None:
    """A full disk, for instance."""
    config = write_config(tmp_path, EXITS)
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 -- a device waits for nobody
        done = await trio.run_process(
            [sys.executable, "-m", "llama_router", "check", str(config)],
            stdout=full,
            capture_stderr=True,
            check=False,
        )
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == b"error: cannot write the output: No space left on device"
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["logs a", "list"])
async def test_commands_run_without_standard_streams(tmp_path, command: str, closed: str) -> None:
    """What would be written there is lost, and nothing of it gets to another stream."""
    done = await trio.run_process(
        ["sh", "-c", f'exec "$0" -m llama_router {command} {closed}', sys.executable],
        cwd=tmp_path,
        env=environment(HOME=str(tmp_path), XDG_STATE_HOME=str(tmp_path)),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == (1 if command == "logs a" else 0)
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


# -- a running router ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("import .", "no model was found"),
        ("check router.toml", "the working directory no longer exists"),
        ("serve --import-dir .", "no model was found in the caches"),
        ("install-unit --folder /tmp --config router.toml", "the working directory no longer"),
        ("inspect x.gguf", "No such file or directory"),
        ("import-presets x.ini", "No such file or directory"),
        ("init", "No such file or directory"),
    ],
)
async def test_a_working_directory_that_is_gone_is_a_sentence(tmp_path, command, sentence) -> None:
    """Not a traceback."""
    gone = tmp_path / "gone"
    gone.mkdir()
    done = await trio.run_process(
        ["sh", "-c", f"rmdir {gone}; exec {sys.executable} -m llama_router {command}"],
        cwd=gone,
        env=environment(HOME=str(tmp_path), PYTHONPATH=str(ROOT)),
        capture_stderr=True,
        check=False,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (1, False)
    assert sentence in done.stderr.decode()


@pytest.mark.parametrize("command", ["init", "import-presets presets.ini --output"])
async def test_a_file_that_the_disk_does_not_take_leaves_nothing(tmp_path, command) -> None:
    """The command can be repeated as soon as there is room."""
    (tmp_path / "presets.ini").write_text("[m]\nmodel = /m.gguf\n")
    line = f"{sys.executable} -m llama_router {command} new.toml"
    for limit, status in ((0, 1), (10_000, 0)):
        done = await trio.run_process(
            ["sh", "-c", f"ulimit -f {limit}; exec {line}"],
            cwd=tmp_path,
            env=environment(HOME=str(tmp_path), PYTHONPATH=str(ROOT)),
            capture_stderr=True,
            capture_stdout=True,
            check=False,
        )
        assert (tmp_path / "new.toml").exists() is (status == 0), done.stderr
        assert b"Traceback" not in done.stderr
        assert (b"new.toml: File too large" in done.stderr) is (status == 1)


@pytest.mark.parametrize("columns", [1, 2, 5, 40])
async def test_help_fits_a_narrow_terminal(tmp_path, columns: int) -> None:
    """It ends, and says what it says elsewhere."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 10, columns, 0, 0))
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "llama_router", "load", "--help"],
        stdin=theirs,
        stdout=theirs,
        env=environment(HOME=str(tmp_path), TERM="xterm"),
    )
    os.close(theirs)
    shown = b""
    async with trio.lowlevel.FdStream(ours) as terminal:
        with suppress(trio.BrokenResourceError):  # EIO: that is how a terminal ends
            async for data in terminal:
                shown += data
    assert await process.wait() == 0
    assert b"--token-file" in shown


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
async def test_characters_that_the_terminal_does_not_have_are_escaped(tmp_path, encoding) -> None:
    """A name of a model may have any, and one of a file bytes that are no text."""
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    table = '[models."\N{SNOWMAN}"]\nspawn.command = ["/bin/true", "$port"]\n'
    (folder / "router.toml").write_text(table)
    done = await run_cli(
        *("check", "--commands", str(folder / "router.toml")),
        folder=tmp_path,
        PYTHONIOENCODING=encoding,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    snowman = b"\\u2603" if encoding != "utf-8" else "\N{SNOWMAN}".encode()
    assert snowman in done.stdout
    assert b"/caf\\udce9/router.toml: ok" in done.stdout


async def test_the_startup_model_is_loaded_first(models, tmp_path) -> None:
    """The router says that it is ready only when the startup model is."""
    config = write_config(tmp_path, model_table(models, "a"), router=['startup_model = "a"'])
    async with serving(config) as router, router.client() as client:
        names = [event["event"] for event in router.events]
        assert names.index("backend.ready") < names.index("router.ready")
        assert await router.loaded() == ["a"]
        assert (await client.post(CHAT_PATH, json=chat("a"))).status_code == 200
        assert len(router.named("backend.spawned")) == 1


@pytest.mark.embedded
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_and_all_it_started(models, tmp_path, signum) -> None:
    """SIGINT and SIGTERM both mean: stop every backend, then exit with status 0."""
    config = write_config(tmp_path, model_table(models, "a"))
    async with serving(config) as router:
        async with router.client() as client:
            assert (await client.post(CHAT_PATH, json=chat("a"))).status_code == 200
        family = router.family()
        assert len(family) == 2  # a backend and the guardian
        router.signal(signum)
        assert await router.process.wait() == 0
        assert alive(family) == set()
        await router.event("router.stopped")
    assert list((tmp_path / "state" / "instances").iterdir()) == []


async def open_stream(router: RealRouter, model: str) -> trio.SocketStream:
    """Ask for a stream and return the connection once the first event came."""
    body = json.dumps(chat(model, stream=True)).encode()
    head = f"POST {CHAT_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    host, _, port = router.url.removeprefix("http://").partition(":")
    connection = await trio.open_tcp_stream(host, int(port))
    await connection.send_all(head.encode() + body)
    received = b""
    while b"data: " not in received:
        data = await connection.receive_some()
        assert data, received
        received += data
    return connection


async def test_the_first_signal_waits_for_a_stream_in_flight(tmp_path) -> None:
    """A drain lasts as long as the stream; when its reader leaves, the router ends with 0."""
    config = write_config(tmp_path, endless_table(tmp_path, "a"))
    async with serving(config) as router:
        async with await open_stream(router, "a"):
            router.signal(signal.SIGTERM)
            await router.event("router.draining")
            assert router.named("backend.stopping") == []
            assert router.process.poll() is None
        assert await router.process.wait() == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_the_second_signal_ends_at_once(tmp_path, signum) -> None:
    """With a stream in flight the second signal cuts it, and the status says which it was."""
    config = write_config(tmp_path, endless_table(tmp_path, "a"), router=["drain_s = 600"])
    async with serving(config, exit_status=128 + signum) as router:
        async with await open_stream(router, "a"):
            family = router.family()
            router.signal(signal.SIGTERM)
            await router.event("router.draining")
            with trio.fail_after(LIMIT_S):
                router.signal(signum)
                assert await router.process.wait() == 128 + signum
        assert alive(family) == set()


async def test_the_drain_is_bounded(tmp_path) -> None:
    """A stream that never ends is cut after ``drain_s``, and the router ends with 0."""
    config = write_config(tmp_path, endless_table(tmp_path, "a"), router=["drain_s = 0.2"])
    async with serving(config) as router, await open_stream(router, "a") as connection:
        router.signal(signal.SIGTERM)
        while await connection.receive_some():
            pass
        assert await router.process.wait() == 0


async def test_sighup_reads_the_configuration_again(tmp_path) -> None:
    """A model that was added to the file can be asked for after SIGHUP."""
    a, b = (endless_table(tmp_path, name) for name in "ab")
    config = write_config(tmp_path, a)
    async with serving(config) as router, router.client() as client:
        assert (await client.get("/v1/models/b")).status_code == 404
        write_config(tmp_path, a, b)
        router.signal(signal.SIGHUP)
        await router.event("config.applied", added=["b"])
        assert (await client.get("/v1/models/b")).status_code == 200


async def test_a_folder_whose_name_is_not_utf8(tmp_path) -> None:
    """A configuration in it is served, and all commands work."""
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    lines = write_config(tmp_path, endless_table(tmp_path, "a")).read_text().splitlines()
    config = folder / "router.toml"
    config.write_text("\n".join(line for line in lines if not line.startswith("state_dir")))
    where = ("--config", str(config))
    async with serving(config) as router:
        for command in ("ps", "status", "rescan", "reload", "load a", "logs a", "unload a"):
            words = [*command.split(), *where]
            done = await run_cli(*words, folder=folder)
            assert (done.returncode, done.stderr) == (0, b""), command
        token = (folder / ".local/state/llama-router/admin-token").read_text().strip()
        async with router.client() as client:
            client.headers["x-admin-token"] = token
            status = (await client.get("/admin/status")).json()
    assert status["config_path"] == str(config).replace("\udce9", "?")
    (folder / "swap.yaml").write_text("models:\n  a:\n    cmd: /bin/true --port ${PORT}\n")
    done = await run_cli(
        "import-llama-swap",
        str(folder / "swap.yaml"),
        "-o",
        str(folder / "new.toml"),
        folder=folder,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)


@pytest.mark.parametrize("nohup", [False, True])
async def test_a_router_ends_with_its_terminal(tmp_path, nohup: bool) -> None:  # noqa: FBT001 -- parametrized
    """Unless it was told to outlive it: then the signal has its other meaning."""
    config = write_config(tmp_path, endless_table(tmp_path, "a"))
    ours, theirs = pty.openpty()
    line = f"exec {sys.executable} -m llama_router serve --config {config}"
    process = await trio.lowlevel.open_process(
        ["sh", "-c", f"trap '' HUP; {line}" if nohup else line],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=environment(HOME=str(tmp_path), PYTHONPATH=str(ROOT)),
        start_new_session=True,
    )
    os.close(theirs)
    effects, said = [], b""
    assert process.stderr is not None
    async for data in process.stderr:
        *lines, said = (said + data).split(b"\n")
        for event in map(json.loads, lines):
            match event["event"]:
                case "router.ready":
                    os.close(ours)
                    process.send_signal(signal.SIGHUP)
                case "router.signalled":
                    effects.append(event["effect"])
                case "config.applied":
                    process.terminate()
    assert await process.wait() == 0
    assert effects == (["reload", "drain"] if nohup else ["drain"])


async def test_sighup_with_a_bad_file_changes_nothing(tmp_path) -> None:
    """A file with a mistake is refused in the log, and the models stay as they were."""
    config = write_config(tmp_path, endless_table(tmp_path, "a"))
    async with serving(config) as router, router.client() as client:
        config.write_text("[models.b]\npath = 3\n")
        router.signal(signal.SIGHUP)
        refused = await router.event("config.rejected")
        assert any("line 2" in problem for problem in refused["problems"])
        assert (await client.get("/v1/models/a")).status_code == 200
        assert (await client.get("/v1/models/b")).status_code == 404


async def test_a_router_that_never_served_ends_on_a_signal(tmp_path) -> None:
    """SIGTERM while the startup model still loads ends the router, with status 0."""
    loads_forever = f"""
[models.a]
spawn.command = ["{sys.executable}", "-c", "import time; time.sleep(600)"]
"""
    config = write_config(tmp_path, loads_forever, router=['startup_model = "a"'])
    async with started(config, "--port", "0") as router:
        await router.event("backend.spawned")
        family = router.family()
        router.signal(signal.SIGTERM)
        assert await router.process.wait() == 0
        assert alive(family) == set()
        assert router.named("router.ready") == []


async def test_every_line_of_a_json_log_is_json(tmp_path) -> None:
    """Warnings about the configuration are events like all others, and each comes once."""
    warned = f"{endless_table(tmp_path, 'a')}mmproj = '/nowhere'\n"
    config = write_config(tmp_path, warned)
    async with serving(config) as router:
        doubted = [event["problem"] for event in router.named("config.doubted")]
        assert len(doubted) == len(set(doubted)) == 2
        router.signal(signal.SIGHUP)
        await router.event("config.applied")
    assert [event["problem"] for event in router.named("config.doubted")] == doubted
    assert router.said == []
