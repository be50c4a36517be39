"""What backends print reaches memory and files, and holds nothing up."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import textwrap
import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from llama_router.logs.lines import Line
from llama_router.model_logs import log_files
from llama_router.model_logs import model_log as model_logs
from llama_router.model_logs import store as output
from llama_router.model_logs.log_files import append_rotating
from llama_router.model_logs.model_log import LogChunk, ModelLog
from llama_router.model_logs.store import LogStore
from tests.events import capture_logs
from tests.limits import LIMIT_S

pytestmark = pytest.mark.process

STATE = b'cmd_child_to_router:state:{"state":"ready"}\n'
MIB = 2**20


class Clock:
    """Seconds, moved by the test."""

    now_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def heard_by(model_log: ModelLog) -> list[Line]:
    """Return the list to which *model_log*'s hook appends."""
    lines: list[Line] = []
    model_log.on_line = lines.append
    return lines


def flooded(model_log: ModelLog, *, lines: int = 60_000) -> None:
    """Write numbered lines of 100 bytes, much more than is kept of one second."""
    data = b"".join(b"%099d\n" % number for number in range(lines))
    for start in range(0, len(data), 65_536):
        model_log.write(data[start : start + 65_536])


def lines_of(path: Path) -> list[str]:
    """Return the lines in a log file, which must be whole."""
    return [json.loads(line)["line"] for line in path.read_bytes().splitlines()]


async def relay(code: str, model_log: ModelLog) -> int:
    """Run Python *code* as a backend, its output going to *model_log*; return its exit status."""
    command = [sys.executable, "-u", "-c", textwrap.dedent(code)]
    with trio.fail_after(LIMIT_S):
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        async with process.stdout:
            async for data in process.stdout:
                model_log.write(bytes(data))
        model_log.end_of_process()
        return await process.wait()


class TestChild:
    """A real process, through a real pipe."""

    async def test_output_of_any_kind_becomes_lines(self) -> None:
        """Partial lines, progress updates, bytes that are no text and last words arrive."""
        model_log = ModelLog("a")
        heard = heard_by(model_log)
        code = r"""
            import os
            for piece in [b"load", b"ing\n", b"\r 10%", b"\r 20%", b"\r100%\n", b"caf\xc3",
                          b"\xa9\xff\n", b"cmd_child_to_", b"router:state:{}\n", b"last words"]:
                os.write(1, piece)
        """
        assert await relay(code, model_log) == 0
        assert model_log.tail(9) == ("loading", "100%", r"café\xff", "last words")
        assert heard == [
            Line("loading"),
            Line(" 10%", progress=True),
            Line(" 20%", progress=True),
            Line("100%"),
            Line(r"café\xff"),
            Line("cmd_child_to_router:state:{}"),
            Line("last words"),
        ]

    @pytest.mark.skipif(sys.gettrace() is not None, reason="coverage costs more than the flood")
    async def test_flood_of_50_mb_costs_little(self) -> None:
        """The child is never held up; its first and last lines and its state are known."""
        model_log = ModelLog("a")
        heard = heard_by(model_log)
        code = r"""
            import os
            os.write(1, b"first\n")
            block = b"x" * 99 + b"\n"
            for _ in range(500):
                rest = memoryview(block * 1000)
                while rest:
                    rest = rest[os.write(1, rest):]
            os.write(1, b"cmd_child_to_router:state:ready\n")
            os.write(1, b"last\n")
        """
        started_s = time.thread_time()
        assert await relay(code, model_log) == 0
        # Splitting all of it takes about a second.
        assert time.thread_time() - started_s < 0.5
        assert heard[0] == Line("first")
        assert Line("cmd_child_to_router:state:ready") in heard
        assert model_log.tail(1) == ("last",)
        kept = model_log.tail(10_000)
        assert sum(map(len, kept)) <= 256 * 1024
        assert any(line.endswith("dropped") for line in kept)


class TestModelLog:
    """One model's output in memory."""

    def test_tail_is_the_newest_lines_oldest_first(self) -> None:
        """Asking for n lines gives the last n, in order."""
        model_log = ModelLog("a")
        model_log.write(b"1\n2\n3\nunfinished")
        assert model_log.tail(2) == ("2", "3")
        assert model_log.tail(9) == ("1", "2", "3")
        assert model_log.tail(0) == ()

    def test_only_the_newest_progress_update_is_in_the_tail(self) -> None:
        """Updates replace each other, and a line that follows replaces them all."""
        model_log = ModelLog("a")
        model_log.write(b"loading\n10%\r20%\r30")
        assert model_log.tail(9) == ("loading", "20%")
        assert model_log.tail(1) == ("20%",)
        model_log.write(b"%\rdone\n")
        assert model_log.tail(9) == ("loading", "done")

    def test_end_of_process_completes_the_last_line(self) -> None:
        """Two processes never share a line."""
        model_log = ModelLog("a")
        model_log.write(b"abort")
        model_log.end_of_process()
        model_log.write(b"hello\n")
        assert model_log.tail(9) == ("abort", "hello")

    def test_tail_since_mark_is_of_this_process(self) -> None:
        """What an earlier process said is not blamed on this one."""
        model_log = ModelLog("a")
        model_log.write(b"old\n10%\r.")
        model_log.mark("started pid 2")
        assert model_log.tail(9, since_mark=True) == ()
        model_log.write(b"\nnew\n")
        assert model_log.tail(9, since_mark=True) == (".", "new")
        assert model_log.tail(9) == ("old", "started pid 2", ".", "new")

    @given(st.lists(st.binary(max_size=40), max_size=30), st.integers(1, 50))
    def test_memory_is_bounded(self, pieces: list[bytes], times: int) -> None:
        """Neither many lines nor long ones grow the log without end."""
        model_log = ModelLog("a")
        for piece in pieces:
            model_log.write(piece * 50 * times)
        tail = model_log.tail(100_000)
        assert len(tail) <= 1001
        assert sum(map(len, tail)) <= 256 * 1024 + 4 * 16_384

    def test_state_is_heard_behind_output_without_newline(self) -> None:
        """llama.cpp's dots on the same pipe do not hide a state, nor the state the dots."""
        model_log = ModelLog("a")
        heard = heard_by(model_log)
        model_log.write(b"....." + STATE + b"..\n")
        assert [line.text for line in heard] == [".....", STATE.decode().rstrip(), ".."]
        assert model_log.tail(9) == (".....", "..")

    def test_a_listener_that_fails_stops_nothing(self) -> None:
        """A bug in the hook is logged once, and the output goes on."""
        model_log = ModelLog("a")

        def fail(_line: Line) -> None:
            raise RuntimeError

        model_log.on_line = fail
        with capture_logs() as events:
            model_log.write(b"1\n2\n")
        assert [event["event"] for event in events] == ["log.listener_failed"]
        assert model_log.tail(9) == ("1", "2")


class TestFlood:
    """More output than anybody can read."""

    def test_beginning_and_end_are_kept_and_the_rest_is_counted(self) -> None:
        """Between the first and the newest lines one line says exactly what is missing."""
        kept: list[str] = []
        model_log = ModelLog("a", clock=Clock())
        model_log.listeners.append(lambda chunk: kept.extend(chunk.texts))
        flooded(model_log)
        model_log.end_of_process()
        [marker] = [line for line in kept if line.startswith("…")]
        position = kept.index(marker)
        numbers = [int(line) for line in kept if line is not marker]
        dropped = 60_000 - len(numbers)
        assert marker == f"… {dropped} lines ({dropped / 10_000:.1f} MB) dropped"
        assert numbers[:position] == list(range(position))
        assert numbers[position:] == list(range(60_000 - len(numbers[position:]), 60_000))
        assert position * 100 > 1.9 * MIB
        assert len(numbers) - position > 100

    @pytest.mark.parametrize("offset", range(0, 65_536, 6_007))
    def test_every_state_is_heard_once(self, offset: int) -> None:
        """States in a flood reach the hook, wherever reads cut them; they are not counted."""
        model_log = ModelLog("a", clock=Clock())
        block = b"y" * 76 + b"\n"
        data = block * 30_000 + STATE + block * 900 + b"...." + STATE + block * 30_000 + STATE
        states: list[str] = []
        model_log.on_line = lambda line: (
            states.append(line.text) if line.text.startswith("cmd_") else None
        )
        model_log.write(data[:offset])
        for start in range(offset, len(data), 65_536):
            model_log.write(data[start : start + 65_536])
        model_log.end_of_process()
        assert states == [STATE.decode().rstrip()] * 3
        assert not any("cmd_" in line for line in model_log.tail(10_000))

    def test_an_unfinished_line_survives_the_beginning_of_a_flood(self) -> None:
        """A line that was half read when the flood began is not torn."""
        clock = Clock()
        model_log = ModelLog("a", clock=clock)
        heard = heard_by(model_log)
        model_log.write(b"x" * (model_logs.MAX_COST_PER_S - 200) + b"\n" + STATE[:11])
        assert len(heard) > 1
        model_log.write(STATE[11:] + b"y\n" * 100)
        assert heard[-1].text == STATE.decode().rstrip()

    def test_calm_comes_back(self) -> None:
        """After a flood, lines are kept again as they come."""
        clock = Clock()
        model_log = ModelLog("a", clock=clock)
        flooded(model_log)
        clock.now_s = 1.1
        model_log.write(b"calm\n")
        assert model_log.tail(2) == (f"{59_999:099d}", "calm")
        clock.now_s = 2.2
        model_log.write(b"x\n" * 20_000)
        assert model_log.tail(1) == ("x",)
        assert not any("dropped" in line for line in model_log.tail(900))

    def test_endless_flood_is_sampled_every_second(self) -> None:
        """A flood that does not stop is kept less of, and its newest lines each second."""
        clock = Clock()
        kept: list[str] = []
        model_log = ModelLog("a", clock=clock)
        model_log.listeners.append(lambda chunk: kept.extend(chunk.texts))
        flooded(model_log)
        clock.now_s = 1.0
        before = len(kept)
        flooded(model_log)
        clock.now_s = 2.0
        flooded(model_log)
        assert 100 < len(kept) - before < 2500
        assert sum(line.startswith("…") for line in kept) == 2

    def test_a_flood_of_tiny_lines_is_one(self) -> None:
        """Lines cost more than bytes: many short ones are dropped before they take long."""
        model_log = ModelLog("a", clock=Clock())
        heard = heard_by(model_log)
        for _ in range(32):
            model_log.write(b"x\n" * 32_768)
        assert 10_000 < len(heard) < 100_000

    @pytest.mark.parametrize("byte", [b"x", b"\r", b"\x00"])
    def test_flood_without_lines_is_bounded(self, byte: bytes) -> None:
        """Bytes that never end a line are dropped and counted, too."""
        model_log = ModelLog("a", clock=Clock())
        for _ in range(80):
            model_log.write(byte * 65_536)
        model_log.end_of_process()
        assert any("dropped" in line for line in model_log.tail(900))


class TestFiles:
    """Logs on disk."""

    def test_each_model_has_a_file_of_json_lines(self, tmp_path: Path) -> None:
        """Any model name makes a file inside the directory; lines carry time and model."""
        names = ["org/model:Q4_K_M", "../up", "..", "ü" * 200, "ü" * 199 + "x", "a\nb", "\udcff"]
        store = LogStore(tmp_path / "logs", max_bytes=MIB, backups=1)
        for name in names:
            store.for_model(name).write(f"I am {names.index(name)}\nunfinished".encode())
        assert store.for_model("..") is store.for_model("..")
        assert store.close(10)
        assert len(list((tmp_path / "logs").iterdir())) == len(names)
        assert os.listdir(tmp_path) == ["logs"]  # noqa: PTH208 -- nothing beside it
        for index, name in enumerate(names):
            path = store.path_for(name)
            assert path is not None
            assert lines_of(path) == [f"I am {index}", "unfinished"]
        path = tmp_path / "logs" / "org%2Fmodel%3AQ4_K_M.jsonl"
        first = json.loads(path.read_bytes().splitlines()[0])
        assert first.keys() == {"ts", "model", "line"}
        assert first["model"] == "org/model:Q4_K_M"

    def test_without_a_directory_memory_is_all(self) -> None:
        """No state directory means no files, not no logs."""
        store = LogStore(None, max_bytes=MIB, backups=1)
        store.for_model("a").write(b"x\n")
        assert store.path_for("a") is None
        assert store.close(0)
        assert store.for_model("a").tail(1) == ("x",)

    def test_rotation_with_several_models_and_restarts(self, tmp_path: Path) -> None:
        """Sizes are bounded, the newest lines stay, none is torn or twice there."""
        for start in range(3):
            store = LogStore(tmp_path, max_bytes=4000, backups=2)
            for number in range(start * 100, start * 100 + 100):
                for model in ("a", "b"):
                    store.for_model(model).write(b"%s %d\n" % (model.encode(), number))
            assert store.close(10)
        names = {f"{model}.jsonl{end}" for model in "ab" for end in ("", ".1", ".2")}
        assert {path.name for path in tmp_path.iterdir()} == names
        for model in ("a", "b"):
            paths = [tmp_path / f"{model}.jsonl{end}" for end in (".2", ".1", "")]
            assert all(0 < path.stat().st_size <= 4000 for path in paths)
            kept = [line for path in paths for line in lines_of(path)]
            assert kept == [f"{model} {number}" for number in range(300 - len(kept), 300)]

    def test_rotation_without_backups_starts_anew(self, tmp_path: Path) -> None:
        """With no backups wanted, one file of bounded size is all there is."""
        path = tmp_path / "a.jsonl"
        append_rotating(path, deque([b"1\n", b"2\n", b"3\n"]), max_bytes=4, backups=0)
        assert path.read_bytes() == b"3\n"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_line_over_the_limit_has_a_file_of_its_own(self, tmp_path: Path) -> None:
        """A limit that is smaller than a line loses nothing and ends."""
        path = tmp_path / "a.jsonl"
        append_rotating(path, deque([b"12345\n", b"67890\n"]), max_bytes=3, backups=1)
        assert path.read_bytes() == b"67890\n"
        assert (tmp_path / "a.jsonl.1").read_bytes() == b"12345\n"

    def test_half_a_line_from_a_killed_router_is_closed(self, tmp_path: Path) -> None:
        """A torn last line costs no line after it."""
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"half')
        append_rotating(path, deque([b"{}\n"]), max_bytes=MIB, backups=1)
        assert path.read_bytes() == b'{"half\n{}\n'

    def test_a_file_that_is_removed_comes_back(self, tmp_path: Path) -> None:
        """Somebody who tidies up the directory does not end the log."""
        path = tmp_path / "logs" / "a.jsonl"
        append_rotating(path, deque([b"1\n"]), max_bytes=MIB, backups=1)
        path.unlink()
        path.parent.rmdir()
        append_rotating(path, deque([b"2\n"]), max_bytes=MIB, backups=1)
        assert path.read_bytes() == b"2\n"


class Batches:
    """Writes a store's batches one by one, as its thread would, so that each can be seen."""

    def __init__(self, directory: Path) -> None:
        self.store = LogStore(directory, max_bytes=MIB, backups=1)
        self.store.close(10)

    def write(self, *texts: str, refused: int = 0, model: str = "a") -> list[Any]:
        """Write *texts* as one batch and return the events that are logged."""
        with capture_logs() as events:
            self.store._write([output._Entry(model, LogChunk(time.time(), list(texts)), refused)])
        return events


class TestTrouble:
    """Disks that are full, slow or forbidden."""

    def test_full_disk_is_told_once_and_memory_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Writing to a full disk warns once per model, and the tail is unaffected."""

        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(log_files, "_write_all", fail)
        with capture_logs() as events:
            store = LogStore(tmp_path, max_bytes=MIB, backups=1)
            for number in range(100):
                store.for_model("a").write(b"%d\n" % number)
                store.for_model("b").write(b"%d\n" % number)
            assert store.close(10)
        assert sorted((event["event"], event["model"]) for event in events) == [
            ("log.write_failed", "a"),
            ("log.write_failed", "b"),
        ]
        assert os.strerror(errno.ENOSPC) in events[0]["error"]
        assert store.for_model("a").tail(1) == ("99",)

    def test_recovery_is_told_and_the_gap_is_in_the_file(self, tmp_path: Path) -> None:
        """When there is space again, the file goes on and says how many lines are missing."""
        batches = Batches(tmp_path)
        path = tmp_path / "a.jsonl"
        path.symlink_to("/dev/full")
        assert [event["event"] for event in batches.write("1", "2")] == ["log.write_failed"]
        assert batches.write("3") == []
        path.unlink()
        [event] = batches.write("4")
        assert (event["event"], event["lost_lines"]) == ("log.write_recovered", 3)
        assert batches.write("5") == []
        assert lines_of(path) == ["… 3 lines could not be written", "4", "5"]

    def test_a_disk_that_comes_and_goes_is_not_told_each_time(self, tmp_path: Path) -> None:
        """The same error of the same model is silent for ten minutes."""
        batches = Batches(tmp_path)
        path = tmp_path / "a.jsonl"
        told = []
        for number in range(5):
            path.symlink_to("/dev/full")
            told += batches.write(f"lost {number}")
            path.unlink()
            told += batches.write(f"kept {number}")
            path.unlink()
        assert [event["event"] for event in told] == ["log.write_failed", "log.write_recovered"]

    def test_a_directory_that_cannot_be_made_is_told(self, tmp_path: Path) -> None:
        """A path that leads through a file is an error like any other."""
        (tmp_path / "file").touch()
        [event] = Batches(tmp_path / "file" / "logs").write("1")
        assert (event["event"], event["lost_lines"]) == ("log.write_failed", 1)

    def test_lines_that_the_queue_refused_are_in_the_gap(self, tmp_path: Path) -> None:
        """A disk that is too slow costs lines, and the file says how many."""
        batches = Batches(tmp_path)
        [failed, _recovered] = batches.write("later", refused=7)
        assert "queue full" in failed["error"]
        assert lines_of(tmp_path / "a.jsonl") == ["… 7 lines could not be written", "later"]

    def test_a_disk_that_hangs_holds_nobody_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While a write hangs, output is taken; what the queue refuses is counted, not kept."""
        reading, writing = os.pipe()
        with open(reading, "rb") as gate, open(writing, "wb") as opener:  # noqa: PTH123 -- a pipe
            append = append_rotating

            def hang(path: Path, lines: deque[bytes], *, max_bytes: int, backups: int) -> None:
                gate.read()
                append(path, lines, max_bytes=max_bytes, backups=backups)

            monkeypatch.setattr(output, "append_rotating", hang)
            store = LogStore(tmp_path, max_bytes=100 * MIB, backups=1)
            model_log = store.for_model("a")
            for number in range(30_000):
                model_log.write(b"%d\n" % number)
            assert model_log.tail(1) == ("29999",)
            assert not store.close(0)
            opener.close()
            assert store.close(20)
        assert 0 < len(lines_of(tmp_path / "a.jsonl")) < 30_000

    def test_a_limit_on_file_size_leaves_whole_lines(self, tmp_path: Path) -> None:
        """A write that stops half-way loses lines, but the next ones can be read."""
        path = tmp_path / "a.jsonl"
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        code = f"""
            import resource, signal, sys
            from collections import deque
            from pathlib import Path
            from llama_router.model_logs.log_files import append_rotating
            lines = deque([b'{{"n": %d}}\\n' % n for n in range(100)])
            path = Path({str(path)!r})
            resource.setrlimit(resource.RLIMIT_FSIZE, (123, {hard}))
            try:
                append_rotating(path, lines, max_bytes=10**6, backups=1)
            except OSError:
                resource.setrlimit(resource.RLIMIT_FSIZE, ({soft}, {hard}))
                append_rotating(path, deque([b'{{"n": "later"}}\\n']), max_bytes=10**6, backups=1)
                sys.exit(3)
        """
        command = [sys.executable, "-c", textwrap.dedent(code)]
        assert subprocess.run(command, check=False, timeout=LIMIT_S).returncode == 3
        *whole, torn, later = path.read_bytes().splitlines()
        assert [json.loads(line)["n"] for line in whole] == list(range(len(whole)))
        assert not torn.endswith(b"}")
        assert json.loads(later) == {"n": "later"}
