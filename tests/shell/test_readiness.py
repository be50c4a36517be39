"""What a probe sees is said in words, whatever it is."""

import errno
import os

import pytest
import trio

from llama_router.backends import readiness


def no_more_files(*_: object, **__: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_a_probe_without_a_socket_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """When too many files are open, the start goes on: the next probe may have a socket."""
    monkeypatch.setattr("llama_router.backends.readiness.socket.socket", no_more_files)
    assert await readiness.probe("127.0.0.1", 1, "/health") == "Too many open files"


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every probe is answered with 200."""

    async def probe(*_: object) -> str:
        await trio.lowlevel.checkpoint()
        return "200"

    monkeypatch.setattr(readiness, "probe", probe)


async def found(*looks: str | OSError | None) -> tuple[str | None, str]:
    """Return what comes of it, and what was seen last, if *looks* say in turn who answers."""
    state, left = readiness.ReadinessState(announces=False), list(looks)

    async def find_foreign() -> str | None:
        await trio.lowlevel.checkpoint()
        look = left.pop(0)
        if isinstance(look, OSError):
            raise look
        return look

    stranger = await readiness.wait_ready(
        "127.0.0.1", 1, "/health", state, find_foreign=find_foreign
    )
    assert not left
    return stranger, state.last_probe


@pytest.mark.usefixtures("healthy")
async def test_who_cannot_be_found_out_is_no_stranger() -> None:
    """When /proc cannot be read just now, that is said, and the start goes on."""
    full = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    stranger, _ = await found(full, full, "somebody", full, None)
    assert stranger is None
    assert await found("somebody", full, "somebody", "somebody") == ("somebody", "somebody")


@pytest.mark.usefixtures("healthy")
async def test_a_stranger_is_seen_twice() -> None:
    """One that is there only once may have been a look at the wrong moment."""
    assert (await found("one", None))[0] is None
    assert (await found("one", "other", None))[0] is None
    assert (await found("one", "other", "other"))[0] == "other"
