"""The process that scans for a running router: its results, its failures, its end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from llama_router.config.catalog import Catalog
from llama_router.config.scan_worker.parent import ScanError, scan_in_process
from llama_router.core.config.specs import RouterSpec
from llama_router.process import procfs
from tests.gguf_bytes import write
from tests.limits import LIMIT_S

pytestmark = pytest.mark.process


@pytest.fixture
def catalog(tmp_path) -> Catalog:
    """A catalog that knows nothing yet, of an environment in which Python works."""
    environ = dict(os.environ) | {"HOME": str(tmp_path)}
    for variable in ("XDG_CACHE_HOME", "LLAMA_CACHE", "HF_HOME", "HF_HUB_CACHE"):
        environ.pop(variable, None)
    return Catalog(tmp_path / "state", environ)


def router(tmp_path: Path) -> RouterSpec:
    return RouterSpec(models_dirs=(str(tmp_path / "models"),))


async def test_a_scan_in_another_process_is_the_same_scan(tmp_path, catalog) -> None:
    """Folders, caches and warnings; and this process knows the models afterwards."""
    write(tmp_path / "models" / "a.gguf")
    write(tmp_path / ".cache" / "llama.cpp" / "b.gguf")
    (tmp_path / "models" / "empty.gguf").touch()
    (tmp_path / "router.toml").touch()
    with trio.fail_after(LIMIT_S):
        scanned = await scan_in_process(catalog, router(tmp_path))
    assert (scanned.models, scanned.new, scanned.removed) == (("a", "b"), ("a", "b"), ())
    assert [Path(warning.path).name for warning in scanned.warnings] == ["empty.gguf"]
    assert list(catalog.load(tmp_path / "router.toml").config.models) == ["a", "b"]


async def test_what_cannot_be_kept_is_known_here_nevertheless(tmp_path, catalog) -> None:
    """The other process hands over what it could not write."""
    write(tmp_path / "models" / "a.gguf")
    (tmp_path / "state").touch()
    (tmp_path / "router.toml").touch()
    with trio.fail_after(LIMIT_S):
        scanned = await scan_in_process(catalog, router(tmp_path))
    assert not scanned.is_stored
    assert list(catalog.load(tmp_path / "router.toml").config.models) == ["a"]


async def test_a_process_that_fails_is_reported_with_its_last_words(tmp_path, catalog) -> None:
    """Here Python itself cannot begin."""
    catalog.environ = {"PYTHONHOME": str(tmp_path)}
    with trio.fail_after(LIMIT_S), pytest.raises(ScanError, match="without a result; its last"):
        await scan_in_process(catalog, router(tmp_path))


async def test_a_process_that_cannot_begin_is_reported(tmp_path, catalog, monkeypatch) -> None:
    """With the reason of the system."""
    monkeypatch.setattr("llama_router.workers.parent.sys.executable", str(tmp_path / "none"))
    with trio.fail_after(LIMIT_S), pytest.raises(ScanError, match="cannot be started: No such"):
        await scan_in_process(catalog, router(tmp_path))


async def test_a_cancelled_scan_leaves_no_process(tmp_path, catalog) -> None:
    """Even if it waits for something that never comes."""
    before = procfs.children(os.getpid())
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, socket\n"
        f"here = socket.create_connection(('127.0.0.1', {port}))\n"
        "signal.pause()\n"
    )
    catalog.environ = {**catalog.environ, "PYTHONPATH": str(tmp_path)}
    with trio.fail_after(LIMIT_S):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(scan_in_process, catalog, router(tmp_path))
            async with await listener.accept() as child:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + LIMIT_S):
                    assert await child.receive_some() == b""
    assert procfs.children(os.getpid()) <= before
