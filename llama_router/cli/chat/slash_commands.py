"""The lines that a person types in a chat: messages, and commands that begin with a slash. Pure."""

from __future__ import annotations

import difflib
from typing import Final

import attrs

#: Begins and ends a message of several lines.
QUOTES: Final = '"""'

#: The commands, their arguments, and what they do.
COMMANDS: Final = (
    ("/system", "[TEXT]", "set the system prompt; without TEXT remove it"),
    ("/set", "[NAME VALUE]", "a setting of answers, e.g. temperature 0.2; alone: show all"),
    ("/unset", "NAME", "remove a setting"),
    ("/image", "FILE", "send an image with the next message"),
    ("/model", "[NAME]", "go on with another model; alone: show the models"),
    ("/clear", "", "forget the conversation"),
    ("/stats", "", "show figures after each answer, or no more"),
    ("/save", "NAME", "save the conversation, under a name or in a file"),
    ("/load", "NAME", "go on with a saved conversation"),
    ("/help", "", "show this"),
    ("/bye", "", "leave; so does Ctrl-D"),
)

_NAMES: Final = [name for name, _, _ in COMMANDS]

_OTHER_NAMES: Final = {"/exit": "/bye", "/quit": "/bye", "/q": "/bye", "/?": "/help"}


@attrs.frozen
class Say:
    """A message to the model."""

    text: str


@attrs.frozen
class Do:
    """A command: its name, and the rest of its line."""

    name: str
    argument: str


@attrs.frozen
class Misspelt:
    """A line that looks like a command, and is none; *reply* says so."""

    reply: str


def parse_input(text: str) -> Say | Do | Misspelt | None:
    """Return what *text* asks for; None if it is blank."""
    if not text.strip():
        return None
    if text.lstrip().startswith(QUOTES):
        inner = text.strip().removeprefix(QUOTES).removesuffix(QUOTES)
        return Say(inner.strip("\n")) if inner.strip() else None
    word, _, argument = text.strip().partition(" ")
    if not text.startswith("/") or "/" in word[1:] or "\n" in word:
        return Say(text.strip())
    name = _OTHER_NAMES.get(word.lower(), word.lower())
    if name in _NAMES:
        return Do(name, argument.strip())
    close = difflib.get_close_matches(name, _NAMES, 1)
    hint = f"; did you mean {close[0]}?" if close else "; /help lists the commands"
    return Misspelt(f"there is no command {word}{hint} (a message may begin with a blank)")


def is_open(text: str) -> bool:
    """Return whether *text* began a message of several lines, and has not ended it."""
    stripped = text.strip()
    if not stripped.startswith(QUOTES):
        return False
    return not (stripped.endswith(QUOTES) and len(stripped) >= 2 * len(QUOTES))


def help_lines() -> list[tuple[str, str]]:
    """Return the rows of ``/help``: a command with its arguments, and what it does."""
    rows = [(f"{name} {arguments}".strip(), about) for name, arguments, about in COMMANDS]
    return [
        *rows,
        (f"{QUOTES} ... {QUOTES}", "a message of several lines; so does Alt-Enter"),
        ("Ctrl-C", "stop the answer"),
    ]
