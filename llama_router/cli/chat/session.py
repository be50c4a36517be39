"""A chat: reads what a person types, asks the model, shows the answer, obeys commands."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from ...errors.base import RouterError
from ...files import home_folder, make_folder, read_up_to, reason_of, replace_atomically
from ...logs.lines import escape_controls
from ..failures import CliError
from ..model_client import ModelClient, notice_of
from ..printing import print_error, print_line
from ..suggestions import suggestion
from ..terminal import columns, has_colours, painted, quiet_input, wrapped
from .answer_screen import AnswerScreen
from .conversation import Answer, Conversation, parse_setting
from .images import image_url
from .slash_commands import Do, Misspelt, Say, help_lines, parse_input

if TYPE_CHECKING:
    from .editor import Editor

_PATH: Final = "/v1/chat/completions"

#: Largest file of a conversation that is read, in bytes.
_MOST_BYTES: Final = 64 * 2**20


class StoppedError(CliError):
    """The person stopped the answer."""

    code = "answer_stopped"


@attrs.frozen
class Exchange:
    """An answer with its durations, in seconds; *first_s* is None if no text came."""

    answer: Answer
    first_s: float | None
    total_s: float

    def figures(self) -> str:
        """Return tokens, rates and times in words."""
        usage, timings = self.answer.usage, self.answer.timings
        words = []
        if (tokens := usage.get("completion_tokens")) is not None:
            words.append(f"{tokens} tokens")
        if rate := timings.get("predicted_per_second"):
            words.append(f"{rate:.1f} tokens/s")
        if self.first_s is not None:
            words.append(f"first after {self.first_s:.2f} s")
        if (prompt := usage.get("prompt_tokens")) is not None:
            words.append(f"prompt {prompt} tokens")
        if self.answer.finish_reason == "length":
            words.append("cut off at its longest length")
        return ", ".join(words)

    def to_json(self) -> dict[str, Any]:
        """Return all of it for ``--json``."""
        return {
            "model": self.answer.model,
            "content": self.answer.content,
            "reasoning": self.answer.reasoning,
            "finish_reason": self.answer.finish_reason,
            "usage": dict(self.answer.usage),
            "timings": dict(self.answer.timings),
            "ttft_s": None if self.first_s is None else round(self.first_s, 4),
            "duration_s": round(self.total_s, 4),
        }


def ask(
    client: ModelClient, conversation: Conversation, screen: AnswerScreen | None = None
) -> Exchange:
    """Ask for the next answer, show it while it arrives, and add it to *conversation*.

    Without an answer, the question is taken back.

    Raises:
        StoppedError: after Ctrl-C; what arrived is kept.
        RouterError: if the answer fails.
    """
    answer = Answer()
    began_s = time.monotonic()
    first_s: float | None = None
    try:
        with client.stream(_PATH, conversation.body()) as events:
            for event in events:
                if (notice := notice_of(event)) is not None:
                    if screen is not None:
                        screen.notice(notice)
                    continue
                thought, content = answer.take(event)
                if first_s is None and (thought or content):
                    first_s = time.monotonic() - began_s
                if screen is not None:
                    screen.thought(thought)
                    screen.content(content)
    except KeyboardInterrupt:
        raise StoppedError("stopped") from None
    finally:
        if screen is not None:
            screen.end()
        if answer.content:
            conversation.answer(answer.content)
        else:
            conversation.take_back()
    return Exchange(answer, first_s, time.monotonic() - began_s)


class ChatSession:
    """A chat on the terminal, until the person leaves.

    Args:
        client: Sends the requests.
        conversation: Where it begins.
        images: Images that go with the first message.
        load: Loads a model and shows that.
        with_figures: Whether to show figures after each answer.
    """

    def __init__(
        self,
        client: ModelClient,
        conversation: Conversation,
        *,
        images: Iterable[str] = (),
        load: Callable[[str], None],
        with_figures: bool = False,
    ) -> None:
        self._client = client
        self._conversation = conversation
        self._images = list(images)
        self._load = load
        self._with_figures = with_figures
        self._colours = has_colours(sys.stdout)

    def run(self, editor: Editor) -> None:
        """Read and answer until the person leaves."""
        self._aside("/help lists the commands, /bye leaves, Ctrl-C stops an answer")
        interrupted = False
        while True:
            try:
                text = editor.read(len(self._images))
            except EOFError:
                return
            except KeyboardInterrupt:
                if interrupted:
                    return
                interrupted = True
                self._aside("press Ctrl-C again, Ctrl-D or type /bye to leave")
                continue
            interrupted = False
            if not self._obey(text):
                return

    def arguments(self, command: str) -> list[str]:
        """Return the possible arguments of *command*."""
        with suppress(RouterError, OSError):
            if command == "/model":
                return [str(model["id"]) for model in self._client.models()]
            if command == "/load" and (folder := chats_folder()) is not None:
                return sorted(path.stem for path in folder.glob("*.json"))
        return []

    def _obey(self, text: str) -> bool:
        """Do what the person typed; return False to leave."""
        try:
            match parse_input(text):
                case None:
                    pass
                case Misspelt(reply):
                    self._aside(reply)
                case Say(message):
                    self._say(message)
                case Do("/bye", _):
                    return False
                case Do(name, argument):
                    self._do(name, argument)
        except StoppedError as exc:
            self._aside(str(exc))
        except KeyboardInterrupt:
            self._aside("stopped")
        except RouterError as exc:
            print_error(exc)
        return True

    def _say(self, message: str) -> None:
        self._conversation.ask(message, self._images)
        screen = AnswerScreen()
        with quiet_input():
            exchange = ask(self._client, self._conversation, screen)
        self._images.clear()
        if not exchange.answer.content and not exchange.answer.reasoning:
            screen.aside("(an empty answer)")
        if self._with_figures or exchange.answer.finish_reason == "length":
            screen.aside(exchange.figures())
        print_line("")

    def _do(self, name: str, argument: str) -> None:
        """Obey a command.

        Raises:
            RouterError: if that is not possible.
        """
        commands: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/system": self._set_system,
            "/set": self._set,
            "/unset": self._unset,
            "/image": lambda file: self._images.append(image_url(Path(file))),
            "/clear": self._clear,
            "/stats": self._toggle_figures,
            "/model": self._use_model,
            "/save": lambda name: self._aside(f"saved in {save(self._conversation, name)}"),
            "/load": self._load_saved,
        }
        commands[name](argument)

    def _help(self, _: str) -> None:
        rows = help_lines()
        width = max(len(row[0]) for row in rows)
        for left, right in rows:
            line = f"  {left:{width}}  {right}"
            if len(line) < columns():
                print_line(line)
            else:
                print_line(f"  {left}")
                for part in wrapped(right, indent="    "):
                    print_line(part)

    def _set_system(self, text: str) -> None:
        self._conversation.system = text
        self._aside("the system prompt is set" if text else "no system prompt")

    def _set(self, argument: str) -> None:
        if not argument:
            self._show_settings()
            return
        key, _, value = argument.replace("=", " ", 1).partition(" ")
        try:
            key, setting = parse_setting(key, value.strip())
        except ValueError as exc:
            raise CliError(str(exc)) from exc
        self._conversation.settings[key] = setting
        self._aside(f"{key} = {setting!r}")

    def _unset(self, name: str) -> None:
        found = self._conversation.settings.pop(name, None)
        self._aside("removed" if found is not None else f"{name!r} is not set")

    def _clear(self, _: str) -> None:
        self._conversation.messages.clear()
        self._images.clear()
        self._aside("the conversation is forgotten")

    def _toggle_figures(self, _: str) -> None:
        self._with_figures = not self._with_figures
        self._aside(f"figures are {'shown' if self._with_figures else 'not shown'}")

    def _load_saved(self, name: str) -> None:
        self._conversation = load_saved(name)
        asked = sum(m["role"] == "user" for m in self._conversation.messages)
        self._aside(f"{self._conversation.model}, {asked} question{'s' * (asked != 1)}")

    def _use_model(self, name: str) -> None:
        models = self._client.models()
        known = [each for model in models for each in (model["id"], *model.get("aliases", ()))]
        if not name:
            for model in models:
                mark = "*" if model["id"] == self._conversation.model else " "
                print_line(f" {mark} {model['id']}")
        elif name not in known:
            raise CliError(f"no model is named {name!r}", cure=suggestion(name, known))
        else:
            self._load(name)
            self._conversation.model = name

    def _show_settings(self) -> None:
        conversation = self._conversation
        print_line(f"  model   {conversation.model}")
        if conversation.system:
            print_line(f"  system  {conversation.system}")
        for key, value in conversation.settings.items():
            print_line(f"  {key} = {value!r}")

    def _aside(self, text: str) -> None:
        for line in wrapped(escape_controls(text)):
            sys.stdout.write(painted(line, "dim", on=self._colours) + "\n")
        sys.stdout.flush()


def chats_folder() -> Path | None:
    """Return the folder of saved conversations; None without a home folder."""
    return _own_folder("XDG_DATA_HOME", ".local/share", "chats")


def history_file() -> Path | None:
    """Return the file of messages typed earlier; None without a home folder."""
    folder = _own_folder("XDG_STATE_HOME", ".local/state", "")
    return None if folder is None else folder / "run-history"


def _own_folder(variable: str, default: str, name: str) -> Path | None:
    base, home = os.environ.get(variable), home_folder(os.environ)
    if not base and home is None:
        return None
    return Path(base or f"{home}/{default}", "llama-router", name)


def save(conversation: Conversation, name: str) -> Path:
    """Save *conversation*, readable for its owner only; return the file.

    Raises:
        CliError: if that is not possible.
    """
    path = _chat_path(name)
    try:
        make_folder(path.parent)
        replace_atomically(path, conversation.dump().encode("utf-8", "backslashreplace"))
    except OSError as exc:
        raise CliError(f"{path} cannot be written: {reason_of(exc)}") from exc
    return path


def load_saved(name: str) -> Conversation:
    """Return the conversation that was saved as *name*.

    Raises:
        CliError: if there is none.
    """
    path = _chat_path(name)
    try:
        return Conversation.load(read_up_to(path, _MOST_BYTES).decode())
    except OSError as exc:
        raise CliError(f"{path} cannot be read: {reason_of(exc)}") from exc
    except ValueError as exc:
        raise CliError(f"{path} cannot be used: {exc}") from exc


def _chat_path(name: str) -> Path:
    """Return the file of a conversation: *name* is one, or a word in the folder for them.

    Raises:
        CliError: if there is no name, or no home folder.
    """
    if not name:
        raise CliError("a name is missing", cure="for instance: /save monday")
    if "/" in name or name.endswith(".json"):
        return Path(name).expanduser()
    folder = chats_folder()
    if folder is None:
        raise CliError("there is no home folder", cure="give a file: /save ./monday.json")
    return folder / f"{name}.json"
