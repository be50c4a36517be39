"""The parts of ``llama-router run``: what is typed, what is asked, what is shown."""

from __future__ import annotations

import json

import pyte
import pytest

from llama_router.cli.chat.conversation import Answer, Conversation, parse_setting
from llama_router.cli.chat.slash_commands import Do, Misspelt, Say, is_open, parse_input
from llama_router.cli.chat.word_wrap import WordWrap


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("  ", None),
        ("hello /there", Say("hello /there")),
        ("/set temperature 0.2", Do("/set", "temperature 0.2")),
        ("/QUIT", Do("/bye", "")),
        ("/etc/hosts is what?", Say("/etc/hosts is what?")),
        (" /clear", Say("/clear")),
        ('"""\nfor x in y:\n    z\n"""', Say("for x in y:\n    z")),
        ('""""""', None),
    ],
)
def test_what_is_typed(typed, meant) -> None:
    """A slash begins a command, unless it begins a path or stands behind a blank."""
    assert parse_input(typed) == meant


def test_a_misspelt_command_is_not_sent() -> None:
    """It gets the closest command as a hint."""
    reply = parse_input("/sytem be brief")
    assert isinstance(reply, Misspelt)
    assert "did you mean /system?" in reply.reply


def test_a_quote_is_open_until_it_is_closed() -> None:
    """Enter begins a new line in it."""
    assert [is_open(text) for text in ('"""', '"""a\nb', '"""a"""', "a", '""')] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_question_with_settings_and_an_image() -> None:
    """The system prompt goes first, the image before the text, the settings beside them."""
    conversation = Conversation("m", "be brief", {"temperature": 0})
    conversation.ask("what is it", ["data:image/png;base64,AA=="])
    body = conversation.body()
    assert (body["model"], body["stream"], body["temperature"]) == ("m", True, 0)
    system, question = body["messages"]
    assert system == {"role": "system", "content": "be brief"}
    assert [part["type"] for part in question["content"]] == ["image_url", "text"]


def test_a_question_without_an_answer_is_taken_back() -> None:
    """The next request has it not twice."""
    conversation = Conversation("m")
    conversation.ask("one")
    conversation.answer("two")
    conversation.ask("three")
    conversation.take_back()
    conversation.take_back()
    assert [message["content"] for message in conversation.messages] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("true", True), ('["a"]', ["a"]), ("low", "low"), ("", "")]
)
def test_a_setting_is_json_or_else_text(text, value) -> None:
    """So that numbers are numbers, and words need no quotes."""
    assert parse_setting("x", text) == ("x", value)


def test_a_setting_cannot_replace_the_conversation() -> None:
    """The messages are the conversation's own."""
    with pytest.raises(ValueError, match="'messages' is not a setting"):
        parse_setting("messages", "[]")


def test_a_saved_conversation_is_the_same() -> None:
    """System prompt, settings and messages come back."""
    conversation = Conversation("m", "s", {"seed": 1})
    conversation.ask("é\ud83d")
    again = Conversation.load(conversation.dump())
    assert again.body() == conversation.body()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 1}', "[" * 9000, json.dumps({"version": 2}),
     '{"version": 1, "model": "m", "system": "", "settings": {}, "messages": [1]}'],
)  # fmt: skip
def test_another_file_is_no_conversation(text) -> None:
    """The reason is an error of values, whatever the file has."""
    with pytest.raises(ValueError):  # noqa: PT011 -- the messages of the decoder, too
        Conversation.load(text)


def test_an_answer_is_put_together() -> None:
    """Reasoning and content apart; the last event has the figures; odd events do no harm."""
    answer = Answer()
    assert answer.take({"choices": [{"delta": {"reasoning_content": "hm"}}]}) == ("hm", "")
    assert answer.take({"choices": [{"delta": {"content": "yes"}}], "model": "m"}) == ("", "yes")
    for odd in ({}, {"choices": 1}, {"choices": [None]}, {"choices": [{"delta": None}]}):
        assert answer.take(odd) == ("", "")
    answer.take({"choices": [], "usage": {"completion_tokens": 2}, "timings": {"x": 1}})
    assert (answer.reasoning, answer.content, answer.model) == ("hm", "yes", "m")
    assert (answer.usage, answer.timings) == ({"completion_tokens": 2}, {"x": 1})


def screen_of(pieces: list[str], columns: int) -> list[str]:
    """Return the lines of a terminal that shows *pieces*, wrapped as they come."""
    screen = pyte.Screen(columns, 20)
    stream = pyte.Stream(screen)
    wrap = WordWrap()
    for piece in pieces:
        stream.feed(wrap.feed(piece, columns).replace("\n", "\r\n"))
    lines = [line.rstrip() for line in screen.display]
    return lines[: max((i + 1 for i, line in enumerate(lines) if line), default=0)]


TEXT = "The quick brown fox jumps over the lazy dog.\n\n    return interesting(value)\nabc"


@pytest.mark.parametrize("size", [1, 3, 200])
def test_words_are_not_torn(size) -> None:
    """However the text is cut into pieces, the screen shows the same whole words."""
    pieces = [TEXT[i : i + size] for i in range(0, len(TEXT), size)]
    assert screen_of(pieces, 20) == [
        "The quick brown fox",
        "jumps over the lazy",
        "dog.",
        "",
        "    return",
        "interesting(value)",
        "abc",
    ]


def test_a_word_longer_than_the_line_is_cut() -> None:
    """It has no better place."""
    assert screen_of(["a " + "b" * 25], 10) == ["a", "b" * 9, "b" * 9, "b" * 7]
