"""The table of ``llama-router ps``, from what the router answers."""

from contextlib import contextmanager
from typing import Any

import pytest

from llama_router.cli.commands import ps as ps_module
from llama_router.cli.model_rows import format_memory


class Client:
    """Answers with one list of models, and one program that serves them."""

    def __init__(self, models: list[dict[str, Any]], warning: str | None = None) -> None:
        self._models = models
        self._warning = warning

    def get(self, _: str) -> dict[str, Any]:
        """Return the state of the router."""
        return {"models": self._models, "programs": [{"warning": self._warning}]}


def model(name: str, phase: str, **fields: object) -> dict[str, Any]:
    """Return a model as the admin API answers it."""
    return {
        "id": name,
        "phase": phase,
        "autoload": True,
        "unlisted": False,
        "sleeping": False,
        "pid": None,
        "port": None,
        "in_flight": 0,
        "max_in_flight": None,
        "queued": 0,
        "memory_mib": None,
        "claims": {},
        "footprint": None,
        "waits_for": None,
        "ready_for_s": None,
        "load_left_s": None,
        "fit": None,
        "crashed": False,
        "retry_in_s": None,
        "last_error": None,
        **fields,
    }


def failure(message: str, cause: str | None = "segfault") -> dict[str, Any]:
    """Return a failure two minutes ago."""
    return {"code": "backend_exited", "message": message, "cause": cause, "ago_s": 125.0}


def listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *models: dict[str, Any]
) -> list[str]:
    """Return the lines below the head of the table."""

    @contextmanager
    def connected(_: object) -> Any:
        yield Client(list(models))

    monkeypatch.setattr(ps_module, "connected", connected)
    assert ps_module.ps() == 0
    return capsys.readouterr().out.splitlines()[1:]


def test_a_gpu_that_is_not_used_is_said(monkeypatch, capsys) -> None:
    """Beside the table, so that scripts that read it see no difference."""

    @contextmanager
    def connected(_: object) -> Any:
        yield Client([model("a", "ready")], "the GPU is not used")

    monkeypatch.setattr(ps_module, "connected", connected)
    assert ps_module.ps() == 0
    said = capsys.readouterr()
    assert said.err == "warning: the GPU is not used\n"
    assert "GPU" not in said.out


def test_a_model_that_crashed_while_idle(monkeypatch, capsys) -> None:
    """It is listed, with the time and the cause; one that was unloaded is not."""
    crashed = model("a", "stopped", crashed=True, last_error=failure("it crashed"))
    unloaded = model("b", "stopped", last_error=failure("long ago"))
    row, line = listed(monkeypatch, capsys, crashed, unloaded)
    assert row.split()[:2] == ["a", "stopped"]
    assert line == "a: failed 2m05s ago (segfault): it crashed (see: llama-router logs a)"


def test_what_is_special_about_a_model(monkeypatch, capsys) -> None:
    """It has a column of its own, where there is anything to say."""
    plain, held = model("a", "ready"), model("b", "ready", autoload=False, unlisted=True)
    rows = listed(monkeypatch, capsys, plain, held)
    assert rows[1].endswith("  loaded by request only, unlisted")
    assert "unlisted" not in rows[0]


def test_a_failed_model_takes_one_line(monkeypatch, capsys) -> None:
    """Its message has the last lines of output, which the log has, too."""
    error = failure("word " * 100, cause=None)
    failed = model("a", "failed", crashed=True, retry_in_s=29.5, last_error=error)
    _, line = listed(monkeypatch, capsys, failed)
    assert line.startswith("a: failed 2m05s ago, not tried again for 29s: word word")
    assert line.endswith(" … (see: llama-router logs a)")
    assert len(line) < 200


def test_a_load_under_way(monkeypatch, capsys) -> None:
    """Its end is an estimate from the last load."""
    (row,) = listed(monkeypatch, capsys, model("a", "starting", load_left_s=12.4))
    assert row.split()[:3] == ["a", "starting", "~12s"]


def test_a_model_has_size_memory_context_and_rate(monkeypatch, capsys) -> None:
    """And the time until it is unloaded, if it will be."""
    loaded = model(
        "a", "ready", size_bytes=5 * 2**30, memory_mib=312, n_ctx=8192, tokens_per_s=41.25,
        ttl_left_s=75.0, in_flight=2,
    )  # fmt: skip
    (row,) = listed(monkeypatch, capsys, loaded)
    assert " ".join(row.split()) == "a ready 5.0 GiB 312 MiB 8,192 2 0 41.2 1m15s"


@pytest.mark.parametrize(
    ("memory_mib", "shown"), [(None, "-"), (0.4, "0 MiB"), (999.4, "999 MiB"), (5300, "5.2 GiB")]
)
def test_memory_is_short(memory_mib: float | None, shown: str) -> None:
    """In the unit that makes it readable."""
    assert format_memory(memory_mib) == shown


def test_a_failure_shows_the_last_line_of_output(monkeypatch, capsys) -> None:
    """The lines before it are in the log."""
    error = failure("the backend of model 'a' exited with code 3; its last output: one | two")
    _, line = listed(monkeypatch, capsys, model("a", "failed", last_error=error))
    assert "exited with code 3: two (see: llama-router logs a)" in line


def fit(*, squeezed: bool, **fields: object) -> dict[str, Any]:
    """Return what llama.cpp's fitting chose."""
    fields = {"n_ctx": 4096, "n_ctx_full": 8192, "n_gpu_layers": None, **fields}
    return {**fields, "squeezed": squeezed, "summary": "context 4096 of 8192"}


def test_a_model_that_was_fitted_to_memory(monkeypatch, capsys) -> None:
    """What it got less of is said, and whether something else holds the memory."""
    models = [
        model("a", "ready", fit=fit(squeezed=False)),
        model("b", "ready", fit=fit(squeezed=True)),
        model("c", "ready", fit=fit(squeezed=False, n_ctx=8192)),
    ]
    assert listed(monkeypatch, capsys, *models)[3:] == [
        "a: fitted to memory: context 4096 of 8192",
        "b: squeezed, because something else holds memory: context 4096 of 8192",
    ]
