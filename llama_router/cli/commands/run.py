"""``run``: a chat with a model in the terminal, or one answer for a script."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import attrs
from cyclopts import Parameter

from ..chat.answer_screen import AnswerScreen
from ..chat.conversation import Conversation, parse_setting
from ..chat.images import image_url
from ..chat.session import ChatSession, StoppedError, ask, history_file
from ..client import reporting_failures
from ..failures import CliError, CommandError
from ..loading import load_for_requests
from ..model_client import ModelClient
from ..options import DEFAULT_CONNECTION, Connection, Flag, Json, KeyFile
from ..printing import print_json, print_message
from ..terminal import has_colours

#: Exit status after Ctrl-C, as a shell reports it.
_INTERRUPTED: Final = 130


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Beginning:
    """How a conversation begins: the options ``--system --set --image``.

    Attributes:
        system: The system prompt.
        set: A setting of the answers, NAME=VALUE; may be given several times: --set temperature=0.
        image: An image for the first message; may be given several times.
    """

    system: str = ""
    set: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = ()
    image: Annotated[tuple[Path, ...], Parameter(name="--image", negative="")] = ()


_PLAIN: Final = Beginning()


@reporting_failures
def run(
    model: str,
    prompt: str | None = None,
    /,
    *,
    beginning: Beginning = _PLAIN,
    stats: Flag = False,
    json: Json = False,
    key_file: KeyFile = None,
    connection: Connection = DEFAULT_CONNECTION,
) -> int:
    """Chat with a model in the terminal, or print one answer.

    With PROMPT, or with input from a pipe, it prints one answer and ends. Both together make one
    message.

    Args:
        model: Its name or an alias.
        prompt: The message.
        beginning: The system prompt, settings and images.
        stats: Show the number of tokens, their rate, and the time to the first one.
        json: Print the answer, its reasoning and its figures as JSON.
        key_file: File with an API key, where the router needs one. Default: the key in
            $LLAMA_ROUTER_API_KEY.
        connection: How to find the router.
    """
    conversation = Conversation(model, beginning.system, dict(map(_setting, beginning.set)))
    images = [image_url(path) for path in beginning.image]
    text = _message(prompt)
    is_chat = text is None and sys.stdin.isatty() and sys.stdout.isatty()
    if text is None and (json or not is_chat):
        raise CommandError("there is no message", cure="give a PROMPT, or pipe one in")
    client = ModelClient(connection, key_file)
    load_for_requests(connection, client, model)
    if text is not None:
        return _answer_once(client, conversation, (text, images), as_json=json, with_figures=stats)
    from ..chat.editor import Editor  # noqa: PLC0415 -- a tenth of a second, for a chat only

    session = ChatSession(
        client,
        conversation,
        images=images,
        load=lambda name: load_for_requests(connection, client, name),
        with_figures=stats,
    )
    editor = Editor(history_file(), session.arguments, colours=has_colours(sys.stdout))
    session.run(editor)
    return 0


def _setting(word: str) -> tuple[str, object]:
    name, equals, text = word.partition("=")
    if not equals:
        raise CommandError(f"{word!r} is not NAME=VALUE", cure="for instance: --set temperature=0")
    try:
        return parse_setting(name.strip(), text)
    except ValueError as exc:
        raise CommandError(str(exc)) from exc


def _message(prompt: str | None) -> str | None:
    """Return the message of the command line and of the pipe; None if there is none.

    Raises:
        CliError: if what the pipe has is not text.
    """
    piped = ""
    if not sys.stdin.isatty():
        try:
            piped = sys.stdin.read()
        except UnicodeDecodeError as exc:
            raise CliError("the input is not text", cure="images are given by --image") from exc
    message = "\n\n".join(part for part in (prompt, piped.strip("\n")) if part and part.strip())
    return message or None


def _answer_once(
    client: ModelClient,
    conversation: Conversation,
    message: tuple[str, list[str]],
    *,
    as_json: bool,
    with_figures: bool,
) -> int:
    """Print one answer; return the exit status."""
    conversation.ask(*message)
    screen = None if as_json else AnswerScreen()
    try:
        exchange = ask(client, conversation, screen)
    except StoppedError:
        return _INTERRUPTED
    if as_json:
        print_json(exchange.to_json())
    elif with_figures:
        print_message(exchange.figures())
    return 0
