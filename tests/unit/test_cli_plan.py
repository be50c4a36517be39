"""What ``llama-router plan`` prints: of a running router, and without one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llama_router.cli.commands import plan as command
from llama_router.cli.failures import NoRouterError
from llama_router.cli.options import Connection

CONFIG = """\
[router]
state_dir = "state"
scan_caches = false
[scheduler]
policy = "memory"
[devices.host]
ignore = true
[devices.gpu0]
kind = "simulated"
memory_mib = 10000
[devices.licences]
kind = "pool"
amount = 2
[models.small]
aliases = ["s"]
memory_mib = 4000
needs = { licences = 1 }
spawn.command = ["be", "$port"]
[models.large]
memory_mib = 8000
spawn.command = ["be", "$port"]
[models.huge]
memory_mib = 90000
spawn.command = ["be", "$port"]
"""

DEVICE = {
    "name": "nvidia0",
    "kind": "nvidia",
    "description": "RTX 4090",
    "capacity_mib": 24064,
    "reserve_mib": 512,
    "budget_mib": 23552,
    "others_mib": 3072,
    "freeing_mib": 1024,
    "claimed_mib": 4096,
    "free_mib": 15360,
    "programs": {"ComfyUI/main.py": 3584},
}

POOL = {
    **DEVICE,
    "name": "licences",
    "kind": "pool",
    "description": "pool licences",
    "reserve_mib": 0,
    "budget_mib": 2,
    "others_mib": 0,
    "freeing_mib": 0,
    "claimed_mib": 1,
    "free_mib": 1,
    "programs": {},
}

FOUND: dict[str, Any] = {
    "policy": "memory",
    "devices": [DEVICE, POOL],
    "device_faults": [],
    "loaded": ["a"],
    "models": [
        {
            "id": "b",
            "footprint": {"source": "measured", "host_mib": 0, "gpu_mib": 6144, "fixed_mib": {}},
            "claims": {"nvidia0": 6144, "licences": 1},
            "evicted": ["a", "c"],
            "reason": "",
        },
        {"id": "d", "footprint": None, "claims": {}, "evicted": [], "reason": "it is too large"},
    ],
}

Answer = Callable[[dict[str, Any] | None], list[str]]


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """A function that lets a router answer every request with a plan; returns the paths.

    With None, no router runs.
    """
    asked: list[str] = []

    def answer(found: dict[str, Any] | None) -> list[str]:
        class Client:
            def get(self, path: str) -> dict[str, Any]:
                assert found is not None
                asked.append(path)
                return found

        @contextmanager
        def connected(_: Connection) -> Iterator[Client]:
            if found is None:
                raise NoRouterError("no router")
            yield Client()

        monkeypatch.setattr(command, "connected", connected)
        return asked

    return answer


@pytest.fixture
def connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connection:
    """The options that name a configuration with a simulated GPU and a pool."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "router.toml"
    path.write_text(CONFIG)
    return Connection(config=path)


def cells(line: str) -> list[str]:
    """Return the cells of a line of a table."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_the_tables_of_a_running_router(router: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    """Memory in GiB, units of a pool as they are; what is being freed is not free yet."""
    asked = router(FOUND)
    assert command.plan("b", "d e") == 0
    assert asked == ["/admin/plan?model=b&model=d+e"]
    shown = capsys.readouterr()
    devices, models = (part.splitlines() for part in shown.out.split("\n\n"))
    assert cells(devices[0]) == ["DEVICE", "FOR MODELS", "RESERVED", "OTHERS", "LOADED", "FREE"]
    assert cells(devices[1]) == [
        *("nvidia0", "23.0 GiB", "512 MiB", "4.0 GiB", "4.0 GiB", "15.0 GiB"),
        "RTX 4090, used by ComfyUI/main.py (3.5 GiB)",
    ]
    assert cells(devices[2]) == ["licences", "2", "0", "0", "1", "1", "pool licences"]
    assert cells(models[0]) == ["MODEL", "TAKES", "KNOWN FROM", "EVICTS"]
    assert cells(models[1]) == ["b", "6.0 GiB nvidia0 + 1 licences", "measured", "a, c"]
    assert cells(models[2]) == ["d", "-", "-", "-", "it is too large"]
    assert shown.err == ""


def test_another_policy_and_faults_are_said_beside_the_tables(
    router: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error: what is shown would be so with the policy of memory."""
    router({**FOUND, "policy": "groups", "device_faults": ["the driver does not answer"]})
    assert command.plan() == 0
    said = capsys.readouterr().err
    assert "the policy is 'groups'" in said
    assert "warning: the driver does not answer" in said


def test_json_is_what_the_router_answers(
    router: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without tables."""
    router(FOUND)
    assert command.plan(json=True) == 0
    assert json.loads(capsys.readouterr().out) == FOUND


def test_without_a_router_the_machine_is_empty(
    router: Answer, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is said; names may be aliases, and each model is placed behind the one before it."""
    router(None)
    assert command.plan("s", "large", "huge", connection=connection) == 0
    shown = capsys.readouterr()
    assert "no router runs" in shown.err
    lines = [cells(line) for line in shown.out.splitlines()]
    assert ["gpu0", "9.8 GiB", "0 MiB", "0 MiB", "0 MiB", "9.8 GiB", "simulated gpu0"] in lines
    assert ["small", "1 licences + 3.9 GiB gpu0", "configured", "-"] in lines
    assert ["large", "7.8 GiB gpu0", "configured", "small"] in lines
    (refused,) = [line for line in lines if line[:1] == ["huge"]]
    assert refused[1:4] == ["-", "configured", "-"]
    assert refused[4].startswith("model 'huge' needs 87.9 GiB of GPU memory")


def test_offline_asks_no_router(
    router: Answer, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without names, each model is looked at alone."""
    asked = router(FOUND)
    assert command.plan(offline=True, json=True, connection=connection) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["id"] for each in found["models"]] == ["small", "large", "huge"]
    assert all(not each["evicted"] for each in found["models"])
    assert asked == []


def test_a_router_that_has_read_no_device_yet_is_not_enough(
    router: Answer, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the policy of groups it never does: the devices are read here."""
    router({**FOUND, "devices": []})
    assert command.plan("small", connection=connection) == 0
    assert "gpu0" in capsys.readouterr().out


def test_an_unknown_name_is_an_error(
    router: Answer, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first one is named, and no table is printed."""
    router(None)
    assert command.plan("small", "nope", connection=connection) == 1
    shown = capsys.readouterr()
    assert "no model or alias is named 'nope'" in shown.err
    assert shown.out == ""


def test_a_broken_configuration_is_an_error(
    router: Answer, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its mistakes are said, as by `check`."""
    router(None)
    assert connection.config is not None
    Path(connection.config).write_text("[router]\nport = 'x'\n")
    assert command.plan(connection=connection) == 1
    assert "port" in capsys.readouterr().err
