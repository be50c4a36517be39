"""The journal gets entries that journald understands, from a real datagram socket."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.logs import journal
from llama_router.logs.events import log
from llama_router.logs.journal import Journal, encode, field_name, is_connected
from llama_router.logs.output import configure


class Journald:
    """A socket that stands in for journald's."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(10)
        self.files = 0

    def entry(self) -> dict[str, str]:
        """Return the next entry, however it was sent."""
        size = array.array("i").itemsize
        data, rights, _, _ = self.socket.recvmsg(2**24, socket.CMSG_SPACE(size))
        if rights:
            self.files += 1
            assert data == b""
            (file,) = array.array("i", rights[0][2][:size])
            assert fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
            data = os.pread(file, 2**26, 0)
            os.close(file)
        return decoded(data)


def decoded(data: bytes) -> dict[str, str]:
    """Read an entry as the protocol's page says."""
    fields: dict[str, str] = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", data[:8])
            value, data = data[8 : 8 + size], data[8 + size :]
            assert data[:1] == b"\n"
            data = data[1:]
        assert name.decode() not in fields
        fields[name.decode()] = value.decode()
    return fields


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    """A journald."""
    found = Journald(tmp_path / "socket")
    yield found
    found.socket.close()


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A stream of which systemd says that it leads to the journal."""
    with (tmp_path / "stderr").open("w") as file:
        status = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        yield file


def test_an_event_is_an_entry_with_fields(journald: Journald, stream) -> None:
    """Message, priority and each fact; nothing goes to the stream itself."""
    with configure(stream=stream, journal_path=journald.path):
        log.warning("backend.crashed", model="a b", load_s=1.5, tags=["x"], none=None, ok=True)
        assert journald.entry() == {
            "MESSAGE": "backend.crashed model='a b' load_s=1.5 tags=['x'] none=None ok=True",
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "llama-router",
            "LLAMA_EVENT": "backend.crashed",
            "LLAMA_MODEL": "a b",
            "LLAMA_LOAD_S": "1.5",
            "LLAMA_TAGS": '["x"]',
            "LLAMA_OK": "true",
        }
    assert Path(stream.name).read_bytes() == b""


def test_a_traceback_keeps_its_lines(journald: Journald, stream) -> None:
    """It is a field of its own."""
    with configure(stream=stream, journal_path=journald.path):
        try:
            raise RuntimeError("no\x1b[2J")  # noqa: TRY301 -- to have a traceback
        except RuntimeError:
            log.exception("connection.crashed")
        entry = journald.entry()
    assert entry["PRIORITY"] == "3"
    assert entry["LLAMA_TRACEBACK"].splitlines()[-1] == r"RuntimeError: no\x1b[2J"


def test_a_large_entry_goes_as_a_sealed_file(
    journald: Journald, stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a datagram cannot hold arrives as well."""
    monkeypatch.setattr(journal, "_SEND_BUFFER_BYTES", 100_000)
    text = "x" * 2_000_000
    with configure(stream=stream, journal_path=journald.path):
        log.info("test.happened", text=text)
        assert journald.entry()["LLAMA_TEXT"] == text
    assert journald.files == 1


@pytest.mark.parametrize("evil", ["a\nPRIORITY=0", "\nMESSAGE\n", "\x1b[2J", "\u202e", "a\0b"])
def test_no_value_forges_a_field(journald: Journald, stream, evil: str) -> None:
    """Nor steers a terminal on which the entry is shown."""
    with configure(stream=stream, journal_path=journald.path):
        log.info("test.happened", model=evil, **{evil: "x"})
        entry = journald.entry()
    assert (entry["PRIORITY"], entry["LLAMA_EVENT"]) == ("6", "test.happened")
    assert all(value.isprintable() for value in entry.values())


@given(st.dictionaries(st.from_regex(r"\A[A-Z][A-Z0-9_]{0,9}\Z"), st.text(), max_size=5))
def test_entries_can_be_read_back(fields: dict[str, str]) -> None:
    """Whatever the values hold, but for half characters."""
    readable = {k: v.encode("utf-8", "backslashreplace").decode() for k, v in fields.items()}
    assert decoded(encode(fields)) == readable


@given(st.text(min_size=1))
def test_names_of_fields_are_such_as_journald_keeps(name: str) -> None:
    """Capitals, digits and underscores, no longer than 64."""
    found = field_name(f"LLAMA_{name}")
    assert found.isascii()
    assert found == found.upper()
    assert found.replace("_", "a").isalnum()
    assert len(found) <= 64


def test_without_a_journal_it_is_json(
    journald: Journald, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that was redirected since is not the journal; JSON that was asked for is JSON."""
    with (tmp_path / "file").open("w") as file:
        assert not is_connected(file.fileno(), {})
        assert not is_connected(file.fileno(), {"JOURNAL_STREAM": "1:2"})
        assert not is_connected(None, {"JOURNAL_STREAM": "1:2"})
        status = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        with configure(stream=file, format="json", journal_path=journald.path):
            log.info("test.happened")
    assert (tmp_path / "file").read_text().startswith('{"ts":')


def test_a_journal_out_of_reach_gets_json(tmp_path: Path, stream) -> None:
    """What is written to the stream arrives, whatever the service may not see."""
    with configure(stream=stream, journal_path=str(tmp_path / "nothing")):
        log.info("test.happened")
    assert Path(stream.name).read_text().startswith('{"ts":')


def test_what_journald_does_not_take_is_counted(tmp_path: Path, stream) -> None:
    """While it is restarted, entries are lost; afterwards one says how many."""
    path = tmp_path / "socket"
    Journald(path).socket.close()
    output = configure(stream=stream, journal_path=str(path))
    entry = encode({"MESSAGE": "x"})
    output._write([entry, entry])  # as the thread does
    path.unlink()
    journald = Journald(path)
    output._write([entry])
    assert journald.entry() == {"MESSAGE": "x"}
    dropped = journald.entry()
    assert (dropped["LLAMA_EVENT"], dropped["LLAMA_LINES"]) == ("logs.dropped", "2")
    output.close()
    journald.socket.close()


def test_a_journal_that_is_not_there_raises() -> None:
    """The caller counts it."""
    absent = Journal("/nonexistent/socket")
    with pytest.raises(OSError, match="No such file"):
        absent.send(b"MESSAGE=x\n")
    absent.close()
