"""Models as ``ps`` shows them: rows of a table, and lines about those that need attention. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import shorten
from typing import Any, Final

import attrs

from ..logs.lines import escape_controls
from .failures import without_output
from .tables import Cell, Column

#: Longest beginning of a failure's message in a list, in characters.
_MESSAGE_CHARACTERS: Final = 120

COLUMNS: Final = (
    Column(heading="MODEL", is_flexible=True),
    Column(heading="PHASE"),
    Column(heading="SIZE", rank=7, right=True, is_optional=True),
    Column(heading="MEMORY", rank=2, is_flexible=True),
    Column(heading="CONTEXT", rank=6, right=True, is_optional=True),
    Column(heading="IN FLIGHT", rank=3, right=True),
    Column(heading="QUEUED", rank=4, right=True),
    Column(heading="TOKENS/S", rank=5, right=True, is_optional=True),
    Column(heading="UNLOADS IN", rank=8, is_optional=True),
    Column(heading="NOTES", rank=9, is_optional=True),
)

_PHASE_STYLES: Final[dict[str, tuple[str, ...]]] = {
    "ready": ("green",),
    "stopped": ("dim",),
    "failed": ("red",),
    "backoff": ("red",),
}


def row_of(model: dict[str, Any]) -> list[Cell]:
    """Return the cells of a model, in the order of `COLUMNS`.

    A router of an earlier version does not answer all of them.
    """
    n_ctx, rate, size = model.get("n_ctx"), model.get("tokens_per_s"), model.get("size_bytes")
    is_loaded = model["phase"] not in ("stopped", "failed")
    return [
        Cell(escape_controls(model["id"])),
        Cell(phase_of(model), _PHASE_STYLES.get(model["phase"], ("yellow",))),
        Cell("-" if size is None else format_memory(size / 2**20)),
        Cell(memory_of(model)),
        Cell(f"{n_ctx:,}" if n_ctx and is_loaded else "-"),
        _in_flight(model),
        _count(model["queued"], "yellow"),
        Cell(f"{rate:.1f}" if rate else "-"),
        Cell(_ttl_of(model)),
        Cell(notes_of(model), ("dim",)),
    ]


def _in_flight(model: dict[str, Any]) -> Cell:
    """Return the requests in flight, and how many there may be if there is a limit: ``1/4``."""
    number, most = model["in_flight"], model.get("max_in_flight")
    text = str(number) if most is None else f"{number}/{most}"
    return Cell(text, () if number else ("dim",))


def _count(number: int, *styles: str) -> Cell:
    return Cell(str(number), styles if number else ("dim",))


def phase_of(model: dict[str, Any]) -> str:
    """Return the phase of a model; while it loads, with percent and time left."""
    words = []
    if (part := model.get("load_progress")) is not None:
        words.append(f"{part:.0%}")
    if model["load_left_s"] is not None:
        words.append(f"~{format_duration(model['load_left_s'])}")
    return " ".join((model["phase"], *words))


def _ttl_of(model: dict[str, Any]) -> str:
    left_s = model.get("ttl_left_s")
    return "-" if left_s is None else format_duration(left_s)


def notes_of(model: dict[str, Any]) -> str:
    """Return what is special about a model; empty if nothing is."""
    notes = {
        "asleep": model["sleeping"],
        "loaded by request only": not model["autoload"],
        "unlisted": model["unlisted"],
    }
    told = [note for note, applies in notes.items() if applies]
    if (url := model.get("url")) is not None:
        told.append(f"served by {escape_controls(url)}")
    return ", ".join(told)


def memory_of(model: dict[str, Any]) -> str:
    """Return what a loaded model takes, by device; ``~`` if that is only estimated."""
    claims: dict[str, int] = model["claims"]
    if not claims:
        return format_memory(model["memory_mib"])
    source = (model["footprint"] or {}).get("source")
    sign = "" if source in ("configured", "measured") else "~"
    return " + ".join(f"{sign}{format_memory(mib)} {name}" for name, mib in claims.items())


@attrs.frozen
class Remark:
    """A line about a model below the table, and how it is painted."""

    text: str
    styles: tuple[str, ...] = ()


def remarks(models: Iterable[dict[str, Any]]) -> list[Remark]:
    """Return the lines about models that wait, were squeezed, or failed."""
    found = []
    for model in models:
        name = escape_controls(model["id"])
        if model["waits_for"] is not None:
            waits = escape_controls(model["waits_for"])
            found.append(Remark(f"{name}: {model['queued']} waiting: {waits}", ("yellow",)))
        if (fit := model["fit"]) is not None and _is_reduced(fit):
            found.append(Remark(_fit_line(name, fit)))
        if (failure := model["last_error"]) is not None and _concerns_now(model):
            found.append(Remark(_failure_line(name, model, failure), ("red",)))
    return found


def _is_reduced(fit: dict[str, Any]) -> bool:
    return fit["n_ctx"] < fit["n_ctx_full"] or fit["n_gpu_layers"] is not None


def _fit_line(name: str, fit: dict[str, Any]) -> str:
    """Return what a model got less than with enough memory, in one line."""
    why = "squeezed, because something else holds memory" if fit["squeezed"] else "fitted to memory"
    return f"{name}: {why}: {fit['summary']}"


def _concerns_now(model: dict[str, Any]) -> bool:
    """Return whether the last failure of a model says why it does not run."""
    return model["crashed"] or model["phase"] in ("failed", "backoff")


def _failure_line(name: str, model: dict[str, Any], failure: dict[str, Any]) -> str:
    """Return a failure in one line; the model's log has all of it."""
    ago = "" if failure["ago_s"] is None else f" {format_duration(failure['ago_s'])} ago"
    cause = "" if failure["cause"] is None else f" ({failure['cause']})"
    retry_s = model["retry_in_s"]
    pause = f", not tried again for {format_duration(retry_s)}" if retry_s else ""
    if model.get("url") is not None:  # nothing of it is here to be looked into
        again = f", asked again in {format_duration(retry_s)}" if retry_s else ""
        return f"{name}: down{again}: {escape_controls(failure['message'])}"
    sentence, output = without_output(failure["message"])
    words = ": ".join((sentence, *output[-1:]))
    message = shorten(escape_controls(words), _MESSAGE_CHARACTERS, placeholder=" …")
    return f"{name}: failed{ago}{cause}{pause}: {message} (see: llama-router logs {name})"


def is_listed(model: dict[str, Any]) -> bool:
    """Return whether a model is loaded, being loaded, or has failed: what ``ps`` lists."""
    return bool(model["phase"] != "stopped" or model["crashed"] or model["queued"])


def format_memory(memory_mib: float | None) -> str:
    """Return an amount of memory in short form: ``312 MiB``, ``5.2 GiB``; ``-`` if unknown."""
    if memory_mib is None:
        return "-"
    return f"{memory_mib:.0f} MiB" if memory_mib < 1000 else f"{memory_mib / 1024:.1f} GiB"


def format_duration(seconds: float) -> str:
    """Return *seconds* in short form: ``42s``, ``3m05s``, ``2h07m``, ``3d04h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"
