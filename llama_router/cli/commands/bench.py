"""``bench``: how fast a model is for those who ask it through the router."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import attrs
import trio
from cyclopts import Parameter

from ...admin_token import AdminTokenFileError
from ...errors.base import RouterError
from ..bench.figures import COLUMNS, Level, explanation, remarks
from ..bench.measuring import Measurement, measure
from ..client import STATUS, AdminClient, connected, reporting_failures
from ..failures import CommandError, NoRouterError, RefusedByRouterError
from ..loading import load_and_show
from ..model_client import ModelClient
from ..options import DEFAULT_CONNECTION, Connection, Flag, Json, KeyFile
from ..printing import print_error, print_json, print_line, print_styled
from ..tables import Cell, table
from ..terminal import columns, has_unicode, is_movable, wrapped

#: Largest numbers that are taken: those beyond are mistakes.
_MOST_TOKENS: Final = 1_000_000
_MOST_CLIENTS: Final = 256
_MOST_SECONDS: Final = 3600

#: Exit status after Ctrl-C, as a shell reports it.
_INTERRUPTED: Final = 130


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Load:
    """What is measured: the options ``--prompt --clients --tokens --seconds``.

    Attributes:
        prompt: Tokens of the prompts, separated by commas.
        clients: Numbers of clients that ask at once, separated by commas.
        tokens: Tokens of each answer.
        seconds: Time of each measurement; each client asks at least once.
    """

    prompt: str = "64,512"
    clients: str = "1,4"
    tokens: int = 64
    seconds: float = 5.0


_USUAL: Final = Load()


@reporting_failures
def bench(
    model: str,
    /,
    *,
    load: Load = _USUAL,
    cold: Flag = False,
    json: Json = False,
    key_file: KeyFile = None,
    connection: Connection = DEFAULT_CONNECTION,
) -> int:
    """Measure how fast a model is through the router.

    It loads the model, asks it with prompts of several sizes, by several clients at once, and
    prints the time to the first token and the tokens per second. Ctrl-C ends it early, and prints
    what was measured.

    Args:
        model: Its name or an alias.
        load: What is measured.
        cold: Unload the model first, so that its load is measured.
        json: Print JSON.
        key_file: File with an API key, where the router needs one. Default: the key in
            $LLAMA_ROUTER_API_KEY.
        connection: How to find the router.
    """
    measurement = _plan(model, load)
    client = ModelClient(connection, key_file)
    load_s = _load(connection, client, model, cold=cold)
    failure = _measure(client, measurement)
    is_whole = failure is None
    measured = [level for level in measurement.levels if level.samples or level.failures]
    if json:
        print_json(
            {
                "model": model,
                "load_s": None if load_s is None else round(load_s, 3),
                "answer_tokens": load.tokens,
                "seconds": load.seconds,
                "complete": is_whole,
                "levels": [level.to_json() for level in measured],
            }
        )
    else:
        _print(model, load_s, measured, load)
    if isinstance(failure, RouterError):
        print_error(failure)
        return 1
    return 0 if is_whole else _INTERRUPTED


def _plan(model: str, load: Load) -> Measurement:
    """Return what is to be measured.

    Raises:
        CommandError: if *load* makes no sense.
    """
    prompts = _numbers("--prompt", load.prompt, _MOST_TOKENS)
    clients = _numbers("--clients", load.clients, _MOST_CLIENTS)
    if not 1 <= load.tokens <= _MOST_TOKENS:
        raise CommandError(f"--tokens is a number from 1 to {_MOST_TOKENS}")
    if not 0 <= load.seconds <= _MOST_SECONDS:
        raise CommandError(f"--seconds is a number from 0 to {_MOST_SECONDS}")
    levels = [Level(prompt=size, clients=number) for size in prompts for number in clients]
    return Measurement(model, levels, load.tokens, load.seconds)


def _numbers(option: str, text: str, most: int) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    numbers = [int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 9]
    if len(numbers) != len(words) or not all(1 <= number <= most for number in numbers):
        raise CommandError(
            f"{option} is numbers from 1 to {most}, separated by commas, not {text!r}"
        )
    return list(dict.fromkeys(numbers))


def _load(connection: Connection, client: ModelClient, model: str, *, cold: bool) -> float | None:
    """Load *model*; return how long that took in seconds, None if it was loaded already.

    Raises:
        RouterError: if it cannot be loaded, or no router is running.
    """
    try:
        with connected(connection) as admin:
            return _load_as_admin(admin, model, cold=cold)
    except (AdminTokenFileError, NoRouterError):
        if cold:
            raise
        client.models()  # a router without its admin token; or the same error again
        return None


def _load_as_admin(admin: AdminClient, model: str, *, cold: bool) -> float | None:
    try:
        if cold:
            admin.post("/admin/models/unload", {"model": model})
        listed: list[dict[str, Any]] = admin.get(STATUS)["models"]
        ready = {
            name
            for each in listed
            if each["phase"] == "ready"
            for name in (each["id"], *each["aliases"])
        }
        began_s = time.monotonic()
        load_and_show(admin, model)
    except RefusedByRouterError as exc:
        admin.suggest(exc, model)
        raise
    return None if model in ready else time.monotonic() - began_s


def _measure(client: ModelClient, measurement: Measurement) -> BaseException | None:
    """Measure; return what ended it early, an error or Ctrl-C, if anything did."""
    ended_by: BaseException | None = None
    try:
        trio.run(_measure_and_show, client, measurement)
    except* (RouterError, KeyboardInterrupt) as group:
        ended_by = group
    while isinstance(ended_by, BaseExceptionGroup):
        ended_by = ended_by.exceptions[0]
    return ended_by


async def _measure_and_show(client: ModelClient, measurement: Measurement) -> None:
    async with trio.open_nursery() as nursery:
        if is_movable(sys.stderr):
            from ..bench.screen import show  # noqa: PLC0415 -- rich, for a terminal only

            nursery.start_soon(show, measurement)
        await measure(client, measurement)
        nursery.cancel_scope.cancel()


def _print(model: str, load_s: float | None, measured: list[Level], load: Load) -> None:
    """Print the figures, and what they mean."""
    if load_s is not None:
        print_line(f"{model} was loaded in {load_s:.2f} s, with the wait for other models")
    if not measured:
        return
    width = columns() if sys.stdout.isatty() else None
    mark = "…" if has_unicode() else "..."
    for line in table(COLUMNS, [level.row() for level in measured], width=width, mark=mark):
        print_styled(line)
    for remark in remarks(measured):
        _print_text(remark, "yellow")
    print_line("")
    for sentence in explanation(seconds=load.seconds, tokens=load.tokens):
        _print_text(sentence, "dim")


def _print_text(text: str, style: str) -> None:
    for line in wrapped(text, width=columns() if sys.stdout.isatty() else None):
        print_styled([Cell(line, (style,))])
