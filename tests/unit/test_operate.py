"""What the commands for a running router print, from what it answers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest

from llama_router.cli.commands import operate

RELOAD = {
    "status": "rejected",
    "problems": [{"line": 16, "where": "router.port", "message": "is wrong"}],
    "warnings": [],
    "needs_router_restart": ["base_port"],
}

MODEL = {
    "id": "a",
    "autoload": True,
    "unlisted": False,
    "sleeping": False,
    "phase": "ready",
    "pid": 7,
    "port": 8,
    "memory_mib": 312.4,
    "claims": {},
    "footprint": None,
    "waits_for": None,
    "in_flight": 0,
    "max_in_flight": None,
    "queued": 0,
    "ready_for_s": 61.0,
    "load_left_s": None,
    "fit": None,
    "last_error": None,
}

STATUS = {
    "version": "1",
    "pid": 1,
    "uptime_s": 1.0,
    "urls": ["http://x"],
    "devices": [],
    "device_faults": [],
    "programs": [],
    "config_path": "/c",
    "reload": RELOAD,
    "models": [MODEL],
}


@pytest.fixture(autouse=True)
def _router(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer every request with the same state."""

    class Client:
        def get(self, _path: str) -> Any:
            return STATUS

    @contextmanager
    def connected(_connection: object) -> Any:
        yield Client()

    monkeypatch.setattr(operate, "connected", connected)


def test_status_names_the_programs_that_hold_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind what all others hold; a device that only backends use says nothing about others."""
    device = {
        "name": "nvidia0",
        "kind": "nvidia",
        "description": "RTX 4090",
        "budget_mib": 23552,
        "free_mib": 19456,
        "others_mib": 3072,
        "freeing_mib": 1024,
        "programs": {"ComfyUI/main.py": 3584},
    }
    idle = {**device, "name": "nvidia1", "others_mib": 0, "freeing_mib": 0, "programs": {}}
    monkeypatch.setitem(STATUS, "devices", [device, idle])
    assert operate.status() == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("nvidia")]
    free = "(RTX 4090): 19.0 GiB of 23.0 GiB for models are free"
    assert lines == [
        f"nvidia0 {free}, others hold 4.0 GiB (ComfyUI/main.py 3.5 GiB)",
        f"nvidia1 {free}",
    ]


def test_status_names_settings_that_wait_for_a_restart(capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the mistakes of a file that was rejected later."""
    assert operate.status() == 0
    said = capsys.readouterr().out
    assert "configuration /c: rejected\n  error: line 16: router.port: is wrong\n" in said
    assert "needs a restart of the router: base_port\n" in said
