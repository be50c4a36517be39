"""The line editor of a chat: several lines, history, completion; a plain one on a dumb terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from .slash_commands import COMMANDS, is_open

_PROMPT: Final = ">>> "
_MORE: Final = "... "

_STYLE: Final = Style.from_dict({"prompt": "bold", "more": "ansibrightblack"})


class Editor:
    """Reads the messages of a person from the terminal.

    Args:
        history: File of earlier messages; None for none.
        arguments: Returns the possible arguments of a command, by its name.
        colours: Whether to use colours.
    """

    def __init__(
        self,
        history: Path | None,
        arguments: Callable[[str], Iterable[str]],
        *,
        colours: bool,
    ) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(history),
            completer=_CommandCompleter(arguments),
            complete_while_typing=False,
            multiline=True,
            key_bindings=_bindings(),
            prompt_continuation=[("class:more", _MORE)],
            style=_STYLE if colours else None,
            enable_open_in_editor=True,
        )

    def read(self, attached: int) -> str:
        """Return the next message; *attached* images go with it.

        Raises:
            EOFError: at Ctrl-D, or when the terminal is gone.
            KeyboardInterrupt: at Ctrl-C.
        """
        mark = f"[{attached} image{'s' * (attached > 1)}] " if attached else ""
        prompt: StyleAndTextTuples = [("class:more", mark), ("class:prompt", _PROMPT)]
        return self._session.prompt(prompt)


def _bindings() -> KeyBindings:
    """Return keys: Enter sends, Alt-Enter and an open quote begin a new line."""
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


class _CommandCompleter(Completer):
    """Completes commands, and their arguments, at the beginning of a message."""

    def __init__(self, arguments: Callable[[str], Iterable[str]]) -> None:
        self._arguments = arguments

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        del complete_event
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        command, blank, argument = text.partition(" ")
        if not blank:
            for name, _, about in COMMANDS:
                if name.startswith(command):
                    yield Completion(name, -len(command), display_meta=about)
            return
        for candidate in self._arguments(command):
            if candidate.startswith(argument):
                yield Completion(candidate, -len(argument))


def _history(path: Path | None) -> History:
    """Return the history in *path*, readable for its owner only; one in memory if it cannot be."""
    if path is not None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            return FileHistory(str(path))
    return InMemoryHistory()
