"""A conversation with a model: its messages, its settings, and requests made of them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

Message = dict[str, Any]

#: Version of the format in which conversations are saved.
_FORMAT: Final = 1

#: Fields of a request that are no settings of an answer.
RESERVED: Final = frozenset(("model", "messages", "stream", "stream_options"))


@attrs.define(eq=False)
class Conversation:
    """Messages between a person and a model, and the settings of its answers.

    Attributes:
        model: The model that is asked.
        system: The system prompt; empty if there is none.
        settings: Fields of each request, such as ``temperature``.
        messages: Questions and answers, without the system prompt.
    """

    model: str
    system: str = ""
    settings: dict[str, Any] = attrs.field(factory=dict)
    messages: list[Message] = attrs.field(factory=list)

    def body(self) -> dict[str, Any]:
        """Return the body of the request for the next answer."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {
            **self.settings,
            "model": self.model,
            "messages": [*system, *self.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def ask(self, text: str, images: Sequence[str] = ()) -> None:
        """Add a question; *images* are URLs, such as ``data:`` ones."""
        content: object = text
        if images:
            content = [
                *({"type": "image_url", "image_url": {"url": url}} for url in images),
                {"type": "text", "text": text},
            ]
        self.messages.append({"role": "user", "content": content})

    def answer(self, text: str) -> None:
        """Add the answer to the last question."""
        self.messages.append({"role": "assistant", "content": text})

    def take_back(self) -> None:
        """Remove the last question, which has no answer."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages.pop()

    def dump(self) -> str:
        """Return the conversation as JSON, for `load`."""
        return json.dumps({"version": _FORMAT, **attrs.asdict(self)}, indent=1) + "\n"

    @classmethod
    def load(cls, text: str) -> Conversation:
        """Return the conversation in *text*.

        Raises:
            ValueError: if *text* is not one.
        """
        try:
            document = json.loads(text)
        except RecursionError as exc:
            raise ValueError("it is nested too deeply") from exc
        if not isinstance(document, dict) or document.get("version") != _FORMAT:
            raise ValueError("it is not a conversation of this program")
        model, system = document.get("model"), document.get("system")
        settings, messages = document.get("settings"), document.get("messages")
        if not (
            isinstance(model, str)
            and isinstance(system, str)
            and isinstance(settings, dict)
            and isinstance(messages, list)
            and all(_is_message(each) for each in messages)
        ):
            raise ValueError("it is not complete")
        return cls(model, system, settings, messages)


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and {"role", "content"} <= value.keys()


def parse_setting(name: str, text: str) -> tuple[str, object]:
    """Return a setting of answers: its name, and its value, which is JSON or else a string.

    Raises:
        ValueError: if *name* is a field that the conversation fills itself.
    """
    if not name or name in RESERVED:
        raise ValueError(f"{name!r} is not a setting of answers")
    try:
        return name, json.loads(text)
    except (ValueError, RecursionError):
        return name, text


@attrs.define(eq=False)
class Answer:
    """An answer as it arrives.

    Attributes:
        content: Its text so far.
        reasoning: What the model thought before, so far.
        finish_reason: Why it ended, such as ``stop``; None if it has not, or was cut off.
        usage: Numbers of tokens, from its last event.
        timings: llama.cpp's durations, from its last event.
        model: The name that the backend gave the model.
    """

    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, Any] = attrs.field(factory=dict)
    timings: Mapping[str, Any] = attrs.field(factory=dict)
    model: str = ""

    def take(self, event: Mapping[str, Any]) -> tuple[str, str]:
        """Add one event of the stream; return its pieces of reasoning and of content."""
        self.model = str(event.get("model") or self.model)
        self.usage = _mapping(event.get("usage")) or self.usage
        self.timings = _mapping(event.get("timings")) or self.timings
        choices = event.get("choices")
        choice = _mapping(choices[0]) if isinstance(choices, list) and choices else {}
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        delta = _mapping(choice.get("delta"))
        reasoning = str(delta.get("reasoning_content") or "")
        content = str(delta.get("content") or "")
        self.reasoning += reasoning
        self.content += content
        return reasoning, content


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
