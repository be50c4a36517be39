"""Events become lines that programs and people can trust."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Literal, TypeAlias

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.logs.console import ConsoleRenderer
from llama_router.logs.events import log
from llama_router.logs.output import configure
from llama_router.logs.threaded_writer import ThreadedWriter
from tests.limits import LIMIT_S


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


Format = Literal["auto", "console", "json"]


@contextlib.contextmanager
def pipe():
    """Yield the reading descriptor of a pipe and a stream onto its other end."""
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as source, open(writing, "w", encoding="utf-8") as sink:  # noqa: PTH123 -- descriptors
        yield source, sink


def rendered(
    *,
    format: Format = "json",  # noqa: A002 -- as in configure
    stream: io.StringIO | None = None,
    **fields: object,
) -> str:
    """Return what one event with *fields* writes."""
    stream = stream or io.StringIO()
    with configure(format=format, stream=stream):
        log.info("test.happened", **fields)
    return stream.getvalue()


def test_json_line_has_time_level_and_event_first() -> None:
    """A program finds the same three keys first, then the fields as they are."""
    line = rendered(model="a", load_s=1.25, port=None)
    assert list(json.loads(line)) == ["ts", "level", "event", "model", "load_s", "port"]
    assert re.fullmatch(
        r'\{"ts":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","level":"info","event":"test.happened",'
        r'"model":"a","load_s":1.25,"port":null\}\n',
        line,
    )


def test_json_takes_values_of_any_type() -> None:
    """A value that JSON does not know is written as its text."""
    fields = json.loads(rendered(path=Path("/x"), error=OSError("no")))
    assert (fields["path"], fields["error"]) == ("/x", "no")


class Unprintable:
    """An object that cannot be shown."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize("value", ["\ud800", Unprintable(), {(1, 2): "a"}, {"a": "\udcff"}])
def test_no_value_costs_the_event(format: Format, value: object) -> None:  # noqa: A002 -- as in configure
    """Whatever a field holds, the event is written and nothing is raised."""
    assert "test.happened" in rendered(format=format, value=value, model="a")


@given(st.text(), st.sampled_from(["json", "console"]))
def test_lines_cannot_be_forged(text: str, format: Format) -> None:  # noqa: A002 -- as in configure
    """Whatever a client sends as a name, one event is one line that steers no terminal."""
    line = rendered(format=format, model=text + "\n\x1b[2J\x9b\x7f\u2028\u202e", nested=[text])
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", line)
    if format == "json":
        assert json.loads(line)["model"].endswith("\n\x1b[2J\x9b\x7f\u2028\u202e")


def test_console_line_is_for_people() -> None:
    """Time of day, level, event and words, without what has no value, and digits of no use."""
    line = rendered(
        format="console", model="a/b:Q4", reason="no memory", load_s=0.51234, names=("x", "y"),
        left_s=None, new=[], again=False, argv=["a", "b c"],
    )  # fmt: skip
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d info    test\.happened model=a/b:Q4 reason=\"no memory\" "
        r"load_s=0\.512 names=\"x, y\" argv=\"a 'b c'\"\n",
        line,
    )


Event: TypeAlias = tuple[str, dict[str, object]]


def on_terminal(*events: Event, columns: int = 60) -> list[str]:
    """Return the lines of a terminal after these events."""
    screen = pyte.Screen(columns, 40)
    stream = pyte.Stream(screen)
    render = ConsoleRenderer(colours=True, width=lambda: columns, replaces=True)
    for event, fields in events:
        stream.feed(render("info", event, dict(fields)).decode().replace("\n", "\r\n"))
    lines = [line.rstrip() for line in screen.display]
    return lines[: max((i + 1 for i, line in enumerate(lines) if line), default=0)]


def test_a_long_text_has_lines_of_its_own_on_a_terminal() -> None:
    """Below the event, wrapped at words, and not endless."""
    lines = on_terminal(("a.happened", {"reason": "word " * 200, "code": 3}))
    assert lines[0].endswith("a.happened code=3")
    assert lines[1].startswith(" " * 18 + "reason word word")
    assert lines[-1].endswith("...")
    assert (len(lines), max(map(len, lines)) <= 60) == (5, True)


def test_progress_of_a_load_is_one_line_that_is_replaced() -> None:
    """By the next progress, and then by the next event."""
    loading = {"model": "m", "waited_s": 2.0, "left_s": 4.2, "progress": 0.5, "limit_s": None}
    begun: Event = ("backend.spawned", {"model": "m"})
    first: Event = ("backend.loading", loading)
    later: Event = (
        "backend.loading",
        loading | {"progress": 0.75, "left_s": None, "waited_s": 3.04},
    )
    assert on_terminal(begun, first)[1:] == ["loading m, 50%, 4 s left, after 2 s"]
    assert on_terminal(begun, first, later)[1:] == ["loading m, 75%, after 3.04 s"]
    (_, ready) = on_terminal(begun, first, later, ("backend.ready", {"model": "m"}))
    assert ready.endswith("backend.ready model=m")


def test_progress_without_a_terminal_is_a_line_of_its_own() -> None:
    """Nothing could replace it."""
    render = ConsoleRenderer(colours=False)
    assert render("info", "backend.loading", {"model": "m"}).endswith(b"backend.loading model=m\n")


def test_only_a_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A console log that is redirected is plain text."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[32minfo" in rendered(format="console", stream=Terminal())
    assert "\x1b[" not in rendered(format="console", stream=io.StringIO())


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR turns colours off on a terminal, too. Source: no-color.org."""
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in rendered(format="auto", stream=Terminal())


def test_auto_format_is_json_unless_on_a_terminal() -> None:
    """A service manager gets JSON without asking for it."""
    assert rendered(format="auto").startswith("{")
    assert not rendered(format="auto", stream=Terminal()).startswith("{")


def test_level_is_respected() -> None:
    """What is below the level is not written."""
    stream = io.StringIO()
    with configure(level="warning", format="json", stream=stream):
        log.info("quiet.happened")
        log.warning("loud.happened")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == [
        "loud.happened"
    ]


def test_unknown_level_is_refused() -> None:
    """A typing error in the level is reported with the choices."""
    with pytest.raises(ValueError, match=r"'verbose'.*debug, info, warning, error, critical"):
        configure(level="verbose")


@pytest.mark.parametrize("format", ["json", "console"])
def test_exception_comes_with_its_traceback(format: Format) -> None:  # noqa: A002 -- as in configure
    """`exc_info=True` shows where an error came from, also through `exception`."""
    stream = io.StringIO()
    with configure(format=format, stream=stream):
        try:
            int("told\x1b[2J\n")
        except ValueError as error:
            log.warning("a.failed", exc_info=True)
            log.exception("b.failed")
            kept = error
        log.error("c.failed", exc_info=kept)
    text = stream.getvalue()
    assert text.count("Traceback (most recent call last)") == 3
    assert text.count("ValueError: invalid literal") == 3
    assert "\x1b" not in text
    if format == "json":
        assert all("traceback" in json.loads(line) for line in text.splitlines())
    else:
        assert sum(not line.startswith("    ") for line in text.splitlines()) == 3


def test_exc_info_without_an_exception_is_no_field() -> None:
    """Asking for a traceback where there is none adds nothing."""
    assert list(json.loads(rendered(exc_info=True))) == ["ts", "level", "event"]


def test_libraries_warnings_join_the_stream() -> None:
    """Standard-library records from WARNING up are events; below they are not."""
    stream = io.StringIO()
    with configure(format="json", stream=stream):
        logger = logging.getLogger("some.library")
        logger.info("quiet")
        logger.warning("slow by %d s\n", 3)
        logger.error("broken")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(capture=True)
            warnings.warn("old", UserWarning, stacklevel=1)
    logging.captureWarnings(capture=False)
    logger.warning("after the end")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {event["event"] for event in events} == {"library.logged"}
    assert [(event["level"], event["logger"]) for event in events] == [
        ("warning", "some.library"),
        ("error", "some.library"),
        ("warning", "py.warnings"),
    ]
    assert events[0]["message"] == "slow by 3 s\n"


def test_a_library_record_that_cannot_be_formatted_is_still_an_event() -> None:
    """A library's mistake in its arguments is neither raised nor silent."""
    stream = io.StringIO()
    record = logging.LogRecord("some.library", logging.WARNING, "", 0, "%d", ("three",), None)
    with configure(format="json", stream=stream):
        logging.getLogger().handlers[-1].handle(record)
    assert json.loads(stream.getvalue())["message"] == "'%d' with arguments that do not fit"


def test_close_restores_what_was() -> None:
    """After close, `logging` is as it was before."""
    before = list(logging.getLogger().handlers)
    output = configure(stream=io.StringIO())
    assert output.close()
    assert output.close()
    assert list(logging.getLogger().handlers) == before


def test_every_line_is_written_before_close_returns() -> None:
    """Nothing that was logged before the end is lost, and the order is kept."""
    stream = io.StringIO()
    with configure(format="json", stream=stream):
        for number in range(1000):
            log.info("test.happened", number=number)
    numbers = [json.loads(line)["number"] for line in stream.getvalue().splitlines()]
    assert numbers == list(range(1000))


def test_a_stalled_reader_blocks_nobody_and_losses_are_counted() -> None:
    """Logging goes on while nobody reads; later the stream says how many lines are missing."""
    with pipe() as (source, sink):
        output = configure(format="json", stream=sink)
        total = 20_000
        for number in range(total):
            log.info("test.happened", number=number)
        assert not output.close(timeout_s=0)
        reading = io.BufferedReader(source)
        kept = 0
        for line in reading:
            fields = json.loads(line)
            if fields["event"] == "logs.dropped":
                break
            kept += 1
        assert fields["level"] == "warning"
        assert kept + fields["lines"] == total
        assert output.close(timeout_s=10)


def test_a_reader_that_left_raises_nothing() -> None:
    """A broken pipe costs the lines, never the program."""
    with pipe() as (source, sink):
        source.close()
        with configure(format="json", stream=sink):
            log.info("test.happened")


def test_a_full_disk_raises_nothing() -> None:
    """No space for the log costs the lines, never the program."""
    with Path("/dev/full").open("w") as sink, configure(format="json", stream=sink) as output:
        log.info("test.happened")
        assert output.close(10)
        assert output._dropped == 1


def test_lines_lost_to_errors_are_counted_after_them() -> None:
    """When a broken stream works again, it says what it missed."""

    class Sometimes(io.StringIO):
        broken = True

        def write(self, text: str) -> int:
            if self.broken:
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = Sometimes()
    output = configure(format="json", stream=stream)
    output.close()
    output._write([b"lost\n"])  # as the thread does
    output._write([b"lost\n", b"lost\n"])
    stream.broken = False
    output._write([b"kept\n"])
    output._write([b"kept\n"])
    first, dropped, last = stream.getvalue().splitlines()
    assert (first, last) == ("kept", "kept")
    assert json.loads(dropped)["event"] == "logs.dropped"
    assert json.loads(dropped)["lines"] == 3


def test_half_a_line_before_an_error_spoils_no_other(tmp_path: Path) -> None:
    """A disk that fills up in the middle of a line does not join it to a later one."""
    path = tmp_path / "log"
    code = f"""
import resource
from pathlib import Path
from llama_router.logs.output import configure
sink = Path({str(path)!r}).open("w")
output = configure(format="json", stream=sink)
output.close()
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
output._write([b"whole\\n", b"cut off\\n"])
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
output._write([b"later\\n"])
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LIMIT_S)
    assert path.read_text().splitlines()[:3] == ["whole", "cut ", "later"]


def test_a_non_blocking_stream_gets_everything() -> None:
    """A terminal that another program made non-blocking is waited for."""
    with pipe() as (source, sink):
        os.set_blocking(sink.fileno(), False)
        output = configure(format="json", stream=sink)
        for number in range(3000):
            log.info("test.happened", number=number)
        reading = io.BufferedReader(source)
        assert [json.loads(reading.readline())["number"] for _ in range(3000)] == list(range(3000))
        assert output.close(10)


def test_a_process_without_standard_error_can_log() -> None:
    """Started with descriptor 2 closed, it writes to nobody else's file."""
    code = (
        "import os, sys\n"
        "from llama_router.logs.events import log\n"
        "from llama_router.logs.output import configure\n"
        "assert sys.stderr is None\n"
        "reading, writing = map(os.dup, os.pipe())\n"
        "os.dup2(writing, 2); os.set_blocking(reading, False)\n"
        "with configure(): log.info('test.happened')\n"
        "try: os.read(reading, 1)\n"
        "except BlockingIOError: sys.exit(7)\n"
    )
    shell = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code]
    assert subprocess.run(shell, check=False).returncode == 7


def test_an_output_that_closes_first_leaves_the_other_in_use() -> None:
    """Of two that overlap, the one still open gets events and warnings, whichever began first."""
    first, second = io.StringIO(), io.StringIO()
    outputs = [configure(format="json", stream=stream) for stream in (first, second)]
    outputs[0].close()
    log.info("test.happened")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("mind", stacklevel=1)
    outputs[1].close()
    assert first.getvalue() == ""
    events = [json.loads(line)["event"] for line in second.getvalue().splitlines()]
    assert events == ["test.happened", "library.logged"]


def test_outputs_that_close_in_any_order_leave_no_configuration() -> None:
    """What the process logged with before the first one is in use again after the last."""
    before = logging.getLogger().handlers[:]
    outputs = [configure(format="json", stream=io.StringIO()) for _ in range(2)]
    for output in outputs:
        output.close()
    assert logging.getLogger().handlers == before


def test_without_an_output_warnings_are_on_standard_error(capsys) -> None:
    """A program that configured no output does not lose them; its standard output is its own."""
    log.info("test.happened")
    log.warning("test.failed", model="m")
    assert capsys.readouterr() == ("", "warning: test.failed {'model': 'm'}\n")


class TestThreadedWriter:
    """The thread behind the logs."""

    def test_items_beyond_the_bounds_are_refused(self) -> None:
        """What waits is bounded in number and in bytes, also while the writer is stuck."""
        entered, leave = threading.Event(), threading.Event()
        batches: list[list[str]] = []

        def write(batch: list[str]) -> None:
            batches.append(batch)
            entered.set()
            leave.wait(10)

        writer = ThreadedWriter(write, name="test", max_items=2, max_bytes=100)
        assert writer.put("writing", 10)
        assert entered.wait(10)
        assert writer.put("a", 10)
        assert not writer.put("too large", 90)
        assert writer.put("b", 10)
        assert not writer.put("one too many", 1)
        leave.set()
        assert writer.close(10)
        assert not writer.put("closed", 1)
        assert [item for batch in batches for item in batch] == ["writing", "a", "b"]
