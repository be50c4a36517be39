"""The time to the first token after A -> B -> A, with and without ``keep_cache``.

A conversation with a large model A is answered once; a request for B takes A's place; then the
conversation goes on. Two routers take turns in each round: one starts A anew and lets it compute
the conversation, one saves A's prompt cache before the swap and restores it. The load of A is part
of both times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import httpx

from bench import arguments, versions
from bench.programs import HOST, StartError
from bench.results import Results
from bench.swap.ask import AskError, ask
from bench.variants import WORKLOAD, cell, measure_in_turns, running, write_json
from llama_router.models.tiny.chat import make_chat_model

#: The names of the two routers, and what each has in the spawn settings of A.
KINDS: Final = {"without": "keep_cache = false", "with": "keep_cache = true"}

#: The most that *with* may take of *without*, in the median of the rounds.
GOAL: Final = 0.15

#: Most seconds for an answer: a processor computes some ten tokens per second at worst.
_ANSWER_S: Final = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rounds", type=arguments.count, default=3, help="swaps of each kind (3)")
    parser.add_argument(
        "--tokens", type=arguments.count, default=2000, help="length of the conversation (2000)"
    )
    parser.add_argument("--model", type=Path, help="the GGUF file of A (default: one is made)")
    parser.add_argument(
        "--size-mb", type=arguments.size, default=300, help="size of the model that is made (300)"
    )
    parser.add_argument("--json", type=arguments.file, help="write every figure to this file")


def run(options: argparse.Namespace) -> int:
    """Measure and report; return 1 if anything failed or the goal was missed."""
    results = Results()
    problems: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="llama-router-bench-") as name,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        model = options.model
        if model is None:
            model = folder / "a.gguf"
            make_chat_model(
                model, name="a", size_mb=options.size_mb, n_ctx=2 * options.tokens + 1024
            )
        make_chat_model(folder / "b.gguf", name="b", seed=2)
        try:
            routers = [
                stack.enter_context(_running(folder, kind, model, options.tokens)) for kind in KINDS
            ]
            for router in routers:
                router.measure_words()
        except (AskError, StartError) as error:
            print(f"bench cache: {error}", file=sys.stderr)
            return 2
        measure_in_turns(routers, options.rounds, _Router.swap, results, problems)
    spread = results.paired(WORKLOAD, "after_s", "with", "without")
    ratio = None if spread is None else spread.median
    if ratio is not None and ratio > GOAL:
        problems.append(f"the goal is at most {GOAL:.0%}")
    print("\n".join(_report(results, ratio, problems, options)))
    write_json(options, results, problems, tokens=options.tokens, ratio=ratio)
    return int(bool(problems))


@attrs.define(eq=False)
class _Router:
    """One running router.

    Attributes:
        kind: One of `KINDS`.
        port: Its port.
        tokens: The length of the conversation, in tokens.
    """

    kind: str
    port: int
    tokens: int
    _words: int = 0

    def measure_words(self) -> None:
        """Find out how many words have as many tokens as the conversation is to have.

        Raises:
            AskError: if the model does not answer.
        """
        few = self._chat(" ".join(map(str, range(100))))["prompt_tokens"]
        more = self._chat(" ".join(map(str, range(300))))["prompt_tokens"]
        self._words = max(1, round((self.tokens - few) / ((more - few) / 200) + 100))

    def swap(self, number: int) -> dict[str, float]:
        """Return the figures of A -> B -> A, with another conversation for each *number*.

        Raises:
            AskError: if a request fails.
        """
        text = " ".join(str(word) for word in range(number, number + self._words))
        computed = self._chat(text)
        ask(self.port, "b")
        after = self._chat(text)
        return {
            "first_s": computed["ttft_s"],
            "after_s": after["ttft_s"],
            "prompt_tokens": after["prompt_tokens"],
            "cached_tokens": after["cached_tokens"],
        }

    def _chat(self, text: str) -> dict[str, float]:
        """Ask for a stream of one token; return the time to it, and the tokens of the prompt.

        Raises:
            AskError: if the answer is none.
        """
        body = {
            "model": "a",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began_s, ttft_s, timings = time.perf_counter(), None, None
        try:
            with httpx.stream(
                "POST",
                f"http://{HOST}:{self.port}/v1/chat/completions",
                json=body,
                timeout=_ANSWER_S,
                trust_env=False,
            ) as response:
                response.raise_for_status()
                for line in response.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    ttft_s = ttft_s or time.perf_counter() - began_s
                    event: dict[str, Any] = json.loads(line.removeprefix("data: "))
                    timings = event.get("timings") or timings
        except httpx.HTTPError as error:
            raise AskError(f"the conversation failed: {error}") from error
        if ttft_s is None or timings is None:
            raise AskError("the answer has no token, or no timings")
        cached = float(timings["cache_n"])
        return {
            "ttft_s": ttft_s,
            "prompt_tokens": cached + timings["prompt_n"],
            "cached_tokens": cached,
        }


@contextlib.contextmanager
def _running(folder: Path, kind: str, model: Path, tokens: int) -> Iterator[_Router]:
    """Run one of the routers; end it on exit.

    Raises:
        StartError: if it does not come up.
    """
    lines = [
        "[models.a]",
        f"path = {json.dumps(str(model.resolve()))}",
        f'args = ["--ctx-size", "{2 * tokens + 1024}", "--parallel", "1"]',
        f"spawn.{KINDS[kind]}",
        "spawn.keep_cache_min_tokens = 1",
        "spawn.keep_cache_max_s = 60",
        "[models.b]",
        f'path = "{folder}/b.gguf"',
    ]
    with running(folder, kind, lines) as (port, _):
        yield _Router(kind, port, tokens)


def _report(
    results: Results, ratio: float | None, problems: list[str], options: argparse.Namespace
) -> Iterator[str]:
    yield from versions.lines()
    yield (
        f"a conversation of {options.tokens} tokens, goes on after a swap to another model and "
        f"back; seconds to the first token, medians (least to most) of {options.rounds} rounds "
        "in turns"
    )
    yield f"{'keep_cache':<12}{'loaded, computed':>24}{'after the swap':>24}{'from the cache':>18}"
    for kind in KINDS:
        cells = [cell(results, kind, figure) for figure in ("first_s", "after_s")]
        cached = results.spread(WORKLOAD, kind, "cached_tokens")
        cells_text = "".join(f"{text:>24}" for text in cells)
        yield f"{kind:<12}{cells_text}{cached.median if cached else 0:>18.0f}"
    if ratio is not None:
        yield f"with keep_cache it takes {ratio:.1%} of the time without (goal: {GOAL:.0%})"
    yield from (f"problem: {problem}" for problem in problems)
