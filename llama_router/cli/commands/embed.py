"""``embed``: the vectors of texts."""

from __future__ import annotations

import json as json_text
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import attrs

from ..client import reporting_failures
from ..failures import CliError, CommandError, RefusedByRouterError
from ..loading import load_for_requests
from ..model_client import ModelClient
from ..options import DEFAULT_CONNECTION, Connection, Json, KeyFile
from ..printing import print_json, print_styled
from ..tables import table
from ..terminal import columns, has_unicode, shortened
from ..vectors import (
    COLUMNS,
    MOST_BYTES,
    Embedded,
    Summary,
    TextTooLongError,
    batches_of,
    cure_of,
    in_batches,
    vectors_in,
)

_PATH: Final = "/v1/embeddings"

#: Bytes that are read from a pipe at once.
_PIECE_BYTES: Final = 2**16

#: Longest beginning of a text in an error, in characters.
_QUOTED: Final = 40


@reporting_failures
def embed(
    model: str,
    /,
    *texts: str,
    json: Json = False,
    key_file: KeyFile = None,
    connection: Connection = DEFAULT_CONNECTION,
) -> int:
    """Print the vectors of texts.

    Without a TEXT, each line of standard input is one. On a terminal it prints a table about the
    vectors; else each vector is a line, a JSON array, in the order of the texts; a text without a
    word has none, and its line is null.

    Args:
        model: Its name or an alias.
        texts: The texts.
        json: Print one JSON document with model, texts, vectors and the number of tokens.
        key_file: File with an API key, where the router needs one. Default: the key in
            $LLAMA_ROUTER_API_KEY.
        connection: How to find the router.
    """
    if not texts and sys.stdin.isatty():
        raise CommandError("there is no text", cure="give a TEXT, or pipe in a text per line")
    client = ModelClient(connection, key_file)
    load_for_requests(connection, client, model)
    asking = _Asking(client, model)
    embedded = asking.ask(in_batches(texts) if texts else _piped())
    if json:
        listed = [attrs.asdict(each) for each in embedded]
        # In one line: else each number would be one.
        document = {"model": model, "prompt_tokens": asking.prompt_tokens, "texts": listed}
        print_json(document, indent=None)
    elif sys.stdout.isatty():
        _print_summary(embedded)
    else:
        for each in embedded:
            sys.stdout.write(json_text.dumps(each.vector, separators=(",", ":")) + "\n")
            sys.stdout.flush()
    return 0


def _print_summary(embedded: Iterable[Embedded]) -> None:
    """Print a table about the vectors, also about those before a failure."""
    summary = Summary()
    try:
        for each in embedded:
            summary.add(each)
    finally:
        if summary.rows:
            mark = "…" if has_unicode() else "..."
            for line in table(COLUMNS, summary.rows, width=columns(), mark=mark):
                print_styled(line)


def _piped() -> Iterator[list[str]]:
    """Yield the lines of standard input, at most `BATCH` at once, as soon as they are there.

    Raises:
        CliError: if one is not text, or too long.
    """
    pieces = iter(lambda: os.read(sys.stdin.fileno(), _PIECE_BYTES), b"")
    number = 0
    try:
        for lines in batches_of(pieces):
            decoded = []
            for line in lines:
                number += 1
                decoded.append(line.decode())
            yield decoded
    except UnicodeDecodeError as exc:
        raise CliError(f"line {number} of the input is not text", cure="it must be UTF-8") from exc
    except TextTooLongError as exc:
        limit = MOST_BYTES // 2**20
        raise CliError(f"a line of the input has more than {limit} MiB") from exc


class _Asking:
    """Asks for the vectors of texts.

    Attributes:
        prompt_tokens: Tokens of the texts so far, as the backend counts them.
    """

    def __init__(self, client: ModelClient, model: str) -> None:
        self.prompt_tokens = 0
        self._client = client
        self._model = model

    def ask(self, batches: Iterable[Sequence[str]]) -> Iterator[Embedded]:
        """Yield the texts of *batches* with their vectors.

        Raises:
            RouterError: if a text has none; those before it have been yielded.
        """
        number = 0
        for texts in batches:
            yield from self._ask_batch(texts, number)
            number += len(texts)

    def _ask_batch(self, texts: Sequence[str], number: int) -> Iterator[Embedded]:
        worded = [text for text in texts if text.strip()]
        try:
            vectors = iter(self._post(worded) if worded else [])
        except RefusedByRouterError as exc:
            exc.cure = exc.cure or cure_of(str(exc))
            if not (exc.kind or "").isdigit():  # not the backend's: it is about no text
                raise
            if len(texts) > 1:
                for offset, text in enumerate(texts):
                    yield from self._ask_batch([text], number + offset)
                return
            error = RefusedByRouterError(
                f"text {number + 1} ({shortened(texts[0], _QUOTED)!r}) has no vector: {exc}",
                cure=exc.cure,
                details=exc.details,
                kind=exc.kind,
            )
            raise error from exc
        for text in texts:
            yield Embedded(text, next(vectors) if text.strip() else None)

    def _post(self, texts: list[str]) -> list[list[float]]:
        answer: Any = self._client.post(_PATH, {"model": self._model, "input": texts})
        try:
            vectors = vectors_in(answer, len(texts))
        except ValueError as exc:
            raise CliError(f"the answer of {self._model} cannot be used: {exc}") from exc
        usage = answer.get("usage")
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        self.prompt_tokens += tokens if isinstance(tokens, int) else 0
        return vectors
