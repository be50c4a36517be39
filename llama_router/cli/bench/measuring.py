"""Measures a model by requests through the router, several at once."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import trio

from ...http_library import httpx
from ..chat.conversation import Answer
from ..failures import RefusedByRouterError, without_output
from ..model_client import CUT_OFF, CutOffError, ModelClient
from .figures import Level, Sample
from .prompts import LONG, SHORT, Counting, prompt_of

_PATH: Final = "/v1/chat/completions"
_DATA: Final = "data:"


@attrs.define(eq=False)
class Measurement:
    """What is to be measured, and what was so far.

    Attributes:
        model: The model.
        levels: What is measured one after the other.
        tokens: Tokens of each answer.
        seconds: Time of each level; each client asks at least once.
        at: The place of the level that is being measured; None before the first.
    """

    model: str
    levels: Sequence[Level]
    tokens: int
    seconds: float
    at: int | None = None


async def measure(client: ModelClient, measurement: Measurement) -> None:
    """Measure every level; failed requests are counted there.

    Raises:
        RouterError: if the model does not answer at all.
    """
    async with client.asynchronous() as http:
        short = await _ask(http, client, measurement.model, prompt_of(SHORT, secrets.choice), 1)
        long = await _ask(http, client, measurement.model, prompt_of(LONG, secrets.choice), 1)
        counting = Counting.of(short.prompt_tokens, long.prompt_tokens)
        for measurement.at, level in enumerate(measurement.levels):  # noqa: B020 -- for the screen
            words = counting.words(level.prompt)
            until_s = trio.current_time() + measurement.seconds

            async def ask(words: int = words) -> Sample:
                prompt = prompt_of(words, secrets.choice)
                return await _ask(http, client, measurement.model, prompt, measurement.tokens)

            async with trio.open_nursery() as nursery:
                for _ in range(level.clients):
                    nursery.start_soon(_ask_again, ask, level, until_s)


async def _ask_again(ask: Callable[[], Any], level: Level, until_s: float) -> None:
    """Ask once, and again until the time is over or a request fails."""
    while True:
        try:
            level.samples.append(await ask())
        except (RefusedByRouterError, CutOffError) as exc:
            level.failures.append(str(exc))
            return
        if trio.current_time() >= until_s:
            return


async def _ask(
    http: httpx.AsyncClient, client: ModelClient, model: str, prompt: str, tokens: int
) -> Sample:
    """Return how one request went.

    Raises:
        RefusedByRouterError: if its answer is an error.
        CutOffError: if its answer is not complete.
        NoRouterError: if there is none.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "ignore_eos": True,  # so that all answers have one length, where the backend knows it
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer, times = Answer(), []
    ended = False
    sent_s = trio.current_time()
    with client.errors():
        async with http.stream("POST", _PATH, json=body) as response:
            if response.is_error:
                await response.aread()
                raise client.error_of(response)
            async for line in response.aiter_lines():
                if not line.startswith(_DATA):
                    continue
                data = line.removeprefix(_DATA).strip()
                ended = ended or data == "[DONE]"
                if not ended and any(answer.take(_event_of(data))):
                    times.append(trio.current_time())
    if not ended or not times:
        raise CutOffError(CUT_OFF if not ended else "the answer has no text")
    counted = answer.usage.get("completion_tokens")
    prompt_tokens = answer.usage.get("prompt_tokens")
    return Sample(
        sent_s=sent_s,
        first_s=times[0],
        last_s=times[-1],
        prompt_tokens=prompt_tokens if isinstance(prompt_tokens, int) else None,
        tokens=counted if isinstance(counted, int) else len(times),
    )


def _event_of(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as exc:
        raise CutOffError("the answer is not JSON", details=[data[:200]]) from exc
    if not isinstance(event, dict):
        return {}
    if isinstance(error := event.get("error"), dict):
        sentence, output = without_output(str(error.get("message")))
        raise RefusedByRouterError(sentence, details=output, kind=str(error.get("code")))
    return event
