"""Errors of the commands: what happened, what to do about it, and details."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors.base import RouterError

#: Where the sentence of a backend's end turns into its output, which is quoted line by line.
_OUTPUT_MARKS = ("; its output says: ", "; its last output: ")

#: Between two quoted lines of output; see `errors.backends.quoted`.
_BETWEEN_LINES = " | "


class CliError(RouterError):
    """A command failed.

    Args:
        message: One sentence: what happened.
        cure: One sentence: what to do about it; empty if the message has it.
        details: Lines for those who look closer.
    """

    code = "command_failed"

    def __init__(self, message: str, *, cure: str = "", details: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.cure = cure
        self.details = tuple(details)


class NoRouterError(CliError):
    """No running router was found, or it does not answer."""

    code = "router_not_found"


class CommandError(CliError):
    """The arguments of the command are incomplete, or do not fit together."""

    code = "command_wrong"


class RefusedByRouterError(CliError):
    """The router answered with an error.

    Attributes:
        kind: The error's code; None if the answer has none.
    """

    code = "router_refused"

    def __init__(
        self,
        message: str,
        *,
        cure: str = "",
        details: Iterable[str] = (),
        kind: str | None = None,
    ) -> None:
        super().__init__(message, cure=cure, details=details)
        self.kind = kind


def without_output(message: str) -> tuple[str, tuple[str, ...]]:
    """Return *message* without the output of a backend that it quotes, and the lines of that."""
    for mark in _OUTPUT_MARKS:
        sentence, found, output = message.partition(mark)
        if found:
            return sentence, tuple(output.split(_BETWEEN_LINES))
    return message, ()
