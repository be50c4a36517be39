"""Puts the name that was asked for into an answer, while the answer passes. Pure.

A client that goes on with the name that an answer bears would lose a preset: backends know
only of models. JSON is not decoded here, only walked over, and nothing is held back.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

import msgspec

_FIELD: Final = b"model"

#: Fields of the outermost object whose own ``model`` is the answer's, too.
#: Sources: https://docs.anthropic.com/en/docs/build-with-claude/streaming (``message_start``),
#: https://platform.openai.com/docs/api-reference/responses-streaming (``response.created``).
_ENVELOPES: Final = frozenset((b"message", b"response"))

_NAMES: Final = (_FIELD, *sorted(_ENVELOPES))

#: How much of a field's name is looked at, in bytes: more than the longest of these has.
_KEY_BYTES: Final = 1 + max(map(len, _NAMES))

#: Objects deeper than this are not looked into.
_DEEPEST: Final = 2

_QUOTE, _COLON, _COMMA, _NEWLINE, _BACKSLASH = b'":,\n\\'
_OPENING, _CLOSING = b"{[", b"}]"

# No string has a line feed in it, so one ends what a broken line has begun.
_TEXT: Final = re.compile(rb'[^"\\\n]*+(?>(?:\\[^\n][^"\\\n]*+)*)')
_BETWEEN: Final = re.compile(rb'[^"{}\[\]:,\n]*+')

# What can be passed over in one step, if all of it is here. Each step in Python costs more
# than a hundred bytes in these.
_STRING: Final = b'"%b"' % _TEXT.pattern
_LEAVES: Final = rb'(?>(?:[^"{}\[\]\n]++|%b)*)' % _STRING
_INNER: Final = rb'(?>(?:[^"{}\[\]\n]++|%b|[{\[]%b[}\]])*)' % (_STRING, _LEAVES)
_OUTER: Final = rb'(?>(?:[^"{}\[\]\n]++|%b|[{\[]%b[}\]])*)' % (_STRING, _INNER)
_OUTSIDE: Final = re.compile(_LEAVES)
_FAR: Final = re.compile(_LEAVES + rb'([{\[]++|[}\]]++|["\n]|\Z)')
_MEMBERS: Final = re.compile(
    rb'(?>(?:[ \t\r]*+"(?!(?:%b)")%b"[ \t\r]*+:[ \t\r]*+' % (b"|".join(_NAMES), _TEXT.pattern)
    + rb'(?:%b|[^"{}\[\]:,\n]++|[{\[]%b[}\]])[ \t\r]*+(?:,|(?=\})))+)' % (_STRING, _OUTER)
)


class _Text(Enum):
    """What string the next byte is in."""

    NONE = auto()
    KEY = auto()
    OTHER = auto()
    NAME = auto()  # it is left out; the other name stands in its place already


class ModelNameRewriter:
    """Gives one answer another name of the model.

    What is replaced is the value of ``model``, if it is a string, in the outermost object
    and in its objects ``message`` and ``response``: there OpenAI's, Anthropic's and
    llama.cpp's APIs have it. Anything deeper is what the model said: the arguments of a tool
    may have a ``model``, too. All other bytes pass as they are.
    """

    __slots__ = ("_depth", "_escaped", "_events", "_key", "_looks", "_name", "_text", "_valued")

    def __init__(self, name: str, *, events: bool) -> None:
        """Rename one answer.

        Args:
            name: What it is to bear.
            events: Whether it is an event stream, in which every line begins anew.
        """
        self._name = msgspec.json.encode(name)
        self._events = events
        self._begin()

    def _begin(self) -> None:
        self._depth = 0
        self._looks = [False] * (_DEEPEST + 1)  # by depth: whether the fields matter there
        self._text = _Text.NONE
        self._escaped = False  # the last piece ended with a backslash, in a string
        self._key = b""
        self._valued = False  # what comes is the value of that key

    def feed(self, data: bytes) -> bytes:
        """Return what *data*, the next piece of the answer, becomes."""
        out: list[bytes] = []
        at = begin = 0
        size = len(data)
        while at < size:
            text = self._text
            if text is not _Text.NONE:
                at = self._pass_text(data, at)
                if text is _Text.NAME:
                    begin = at
            elif (at := self._pass_between(data, at)) and self._names_model:
                out += data[begin : at - 1], self._name
                begin = at
        return b"".join((*out, data[begin:])) if begin else data

    @property
    def _names_model(self) -> bool:
        return self._text is _Text.NAME

    def _pass_text(self, data: bytes, at: int) -> int:
        """Go on in a string; return where it ends, behind its quotation mark, or the data."""
        begin, before = at, b""
        if self._escaped:
            self._escaped = False
            if data[at] != _NEWLINE:
                before = b"\\"
                at += 1
        match = _TEXT.match(data, at)
        assert match is not None, "it matches nothing, too"
        at = match.end()
        if self._text is _Text.KEY:
            self._key = (self._key + before + data[begin:at])[:_KEY_BYTES]
        if at == len(data):
            return at
        if data[at] == _BACKSLASH and at + 1 == len(data):
            self._escaped = True
            return at + 1
        self._text = _Text.NONE
        return at + (data[at] == _QUOTE)

    def _pass_between(self, data: bytes, at: int) -> int:
        """Go on outside of strings; return where a string begins, or the data ends."""
        looks = self._depth <= _DEEPEST and self._looks[self._depth]
        if self._depth and not looks:
            return self._pass_far(data, at)
        if looks and not self._valued and (members := _MEMBERS.match(data, at)) is not None:
            self._key = b""
            at = members.end()
        match = (_BETWEEN if looks else _OUTSIDE).match(data, at)
        assert match is not None, "it matches nothing, too"
        at = match.end()
        if at < len(data):
            self._take(data[at], looks=looks)
            at += 1
        return at

    def _pass_far(self, data: bytes, at: int) -> int:
        """Go on where no field matters; return where that may end, or a string is cut."""
        depth = self._depth
        end = max((d for d in range(min(depth, _DEEPEST + 1)) if self._looks[d]), default=0)
        for level in range(depth + 1, _DEEPEST + 1):
            self._looks[level] = False
        for match in _FAR.finditer(data, at):
            run = match[1]
            if run and run[0] in _OPENING:
                depth += len(run)
            elif run and run[0] in _CLOSING and depth - len(run) > end:
                depth -= len(run)
            else:
                at = match.start(1)
                break
        self._depth = depth
        if at < len(data):
            self._take(data[at], looks=False)
            at += 1
        return at

    def _take(self, byte: int, *, looks: bool) -> None:
        """Take in a byte that means something."""
        if byte == _QUOTE:
            self._text = self._kind_of_text() if looks else _Text.OTHER
        elif byte == _COLON:
            self._valued = True
        elif byte == _COMMA:
            self._valued, self._key = False, b""
        elif byte in _OPENING:
            self._open(matters=byte == _OPENING[0] and self._may_matter(looks=looks))
        elif byte in _CLOSING:
            self._depth = max(0, self._depth - 1)
            self._valued, self._key = True, b""  # what follows is no key before a comma
        elif byte == _NEWLINE and self._events:
            self._begin()

    def _kind_of_text(self) -> _Text:
        if not self._valued:
            self._key = b""
            return _Text.KEY
        return _Text.NAME if self._key == _FIELD else _Text.OTHER

    def _may_matter(self, *, looks: bool) -> bool:
        """Say whether the fields of an object that opens here are looked at."""
        return not self._depth or (looks and self._valued and self._key in _ENVELOPES)

    def _open(self, *, matters: bool) -> None:
        self._depth += 1
        self._valued = False
        if self._depth <= _DEEPEST:
            self._looks[self._depth] = matters
