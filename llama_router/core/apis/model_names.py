"""Replacement of the model's name in an answer, while the answer passes. Pure.

A request that names a preset needs it: the backend answers with the name of the model, and a
client that uses that name for its next request would lose the preset. JSON is not decoded here,
only scanned, and nothing is held back.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import Enum, auto
from typing import Final

import msgspec

from .registry import APIS

_FIELD: Final = b"model"

#: Objects deeper than this are not looked into.
_MAX_DEPTH: Final = 2

_QUOTE, _COLON, _COMMA, _NEWLINE, _BACKSLASH = b'":,\n\\'
_OPENING, _CLOSING = b"{[", b"}]"

# No JSON string has a line feed in it, so a line feed ends the string of a broken line.
_TEXT: Final = re.compile(rb'[^"\\\n]*+(?>(?:\\[^\n][^"\\\n]*+)*)')
_BETWEEN: Final = re.compile(rb'[^"{}\[\]:,\n]*+')

# What can be skipped in one step, if all of it has arrived. One step in Python costs more than
# a hundred bytes in these patterns.
_STRING: Final = b'"%b"' % _TEXT.pattern
_LEAVES: Final = rb'(?>(?:[^"{}\[\]\n]++|%b)*)' % _STRING
_INNER: Final = rb'(?>(?:[^"{}\[\]\n]++|%b|[{\[]%b[}\]])*)' % (_STRING, _LEAVES)
_OUTER: Final = rb'(?>(?:[^"{}\[\]\n]++|%b|[{\[]%b[}\]])*)' % (_STRING, _INNER)
_OUTSIDE: Final = re.compile(_LEAVES)
_NESTED: Final = re.compile(_LEAVES + rb'([{\[]++|[}\]]++|["\n]|\Z)')


class ModelPlaces:
    """Places of the model's name in an answer, compiled.

    The field is ``model`` of the outermost object, and of some objects in that.

    Args:
        objects: Names of these objects.
    """

    __slots__ = ("key_bytes", "members", "objects")

    def __init__(self, objects: Collection[bytes]) -> None:
        names = (_FIELD, *sorted(objects))
        self.objects = frozenset(objects)
        self.key_bytes = 1 + max(map(len, names))  # a longer key is none of these
        other_key = rb'[ \t\r]*+"(?!(?:%b)")%b"[ \t\r]*+:[ \t\r]*+' % (
            b"|".join(map(re.escape, names)),
            _TEXT.pattern,
        )
        value = rb'(?:%b|[^"{}\[\]:,\n]++|[{\[]%b[}\]])[ \t\r]*+' % (_STRING, _OUTER)
        self.members = re.compile(rb"(?>(?:%b%b(?:,|(?=\})))+)" % (other_key, value))


#: In the answers of all APIs together: the API of a replayed stream is not recorded.
_PLACES: Final = ModelPlaces(APIS.model_objects)


class _Text(Enum):
    """The kind of the string that the next byte is in."""

    NONE = auto()
    KEY = auto()
    OTHER = auto()
    NAME = auto()  # left out of the output, which has the other name already


class ModelNameRewriter:
    """Puts another name of the model into one answer.

    It replaces the value of ``model``, if that is a string, in the outermost object and in
    the objects there that *places* names. Anything deeper is the model's own output: the
    arguments of a tool may have a ``model``, too. All other bytes pass unchanged.
    """

    __slots__ = (
        "_depth",
        "_escaped",
        "_events",
        "_in_value",
        "_key",
        "_name",
        "_places",
        "_relevant",
        "_text",
    )

    def __init__(self, name: str, *, events: bool, places: ModelPlaces = _PLACES) -> None:
        """Prepare for one answer.

        Args:
            name: The name that the answer gets.
            events: The answer is an event stream: each line is a document of its own.
            places: Places of the name.
        """
        self._name = msgspec.json.encode(name)
        self._events = events
        self._places = places
        self._begin()

    def _begin(self) -> None:
        self._depth = 0
        self._relevant = [False] * (_MAX_DEPTH + 1)  # by depth: the keys there are read
        self._text = _Text.NONE
        self._escaped = False  # the last piece ended with a backslash, in a string
        self._key = b""
        self._in_value = False  # the value of that key follows

    def feed(self, data: bytes) -> bytes:
        """Return the output for *data*, the next piece of the answer."""
        out: list[bytes] = []
        at = begin = 0
        size = len(data)
        while at < size:
            text = self._text
            if text is not _Text.NONE:
                at = self._skip_text(data, at)
                if text is _Text.NAME:
                    begin = at
            elif (at := self._skip_to_text(data, at)) and self._is_in_name:
                out += data[begin : at - 1], self._name
                begin = at
        return b"".join((*out, data[begin:])) if begin else data

    @property
    def _is_in_name(self) -> bool:
        return self._text is _Text.NAME

    def _skip_text(self, data: bytes, at: int) -> int:
        """Skip the rest of a string; return the offset behind it, or the end of *data*."""
        begin, before = at, b""
        if self._escaped:
            self._escaped = False
            if data[at] != _NEWLINE:
                before = b"\\"
                at += 1
        match = _TEXT.match(data, at)
        assert match is not None, "the pattern matches the empty string, too"
        at = match.end()
        if self._text is _Text.KEY:
            self._key = (self._key + before + data[begin:at])[: self._places.key_bytes]
        if at == len(data):
            return at
        if data[at] == _BACKSLASH and at + 1 == len(data):
            self._escaped = True
            return at + 1
        self._text = _Text.NONE
        return at + (data[at] == _QUOTE)

    def _skip_to_text(self, data: bytes, at: int) -> int:
        """Advance outside of strings; return the offset of a string, or the end of *data*."""
        relevant = self._depth <= _MAX_DEPTH and self._relevant[self._depth]
        if self._depth and not relevant:
            return self._skip_nested(data, at)
        if relevant and not self._in_value:
            members = self._places.members.match(data, at)
            if members is not None:
                self._key = b""
                at = members.end()
        match = (_BETWEEN if relevant else _OUTSIDE).match(data, at)
        assert match is not None, "the pattern matches the empty string, too"
        at = match.end()
        if at < len(data):
            self._take(data[at], relevant=relevant)
            at += 1
        return at

    def _skip_nested(self, data: bytes, at: int) -> int:
        """Advance where no key is relevant; return the offset at which that may change."""
        depth = self._depth
        end = max((d for d in range(min(depth, _MAX_DEPTH + 1)) if self._relevant[d]), default=0)
        for level in range(depth + 1, _MAX_DEPTH + 1):
            self._relevant[level] = False
        for match in _NESTED.finditer(data, at):
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
            self._take(data[at], relevant=False)
            at += 1
        return at

    def _take(self, byte: int, *, relevant: bool) -> None:
        """Process a structural byte."""
        if byte == _QUOTE:
            self._text = self._kind_of_text() if relevant else _Text.OTHER
        elif byte == _COLON:
            self._in_value = True
        elif byte == _COMMA:
            self._in_value, self._key = False, b""
        elif byte in _OPENING:
            is_object = byte == _OPENING[0]
            self._open(relevant=is_object and self._may_be_relevant(parent=relevant))
        elif byte in _CLOSING:
            self._depth = max(0, self._depth - 1)
            self._in_value, self._key = True, b""  # no key follows before a comma
        elif byte == _NEWLINE and self._events:
            self._begin()

    def _kind_of_text(self) -> _Text:
        if not self._in_value:
            self._key = b""
            return _Text.KEY
        return _Text.NAME if self._key == _FIELD else _Text.OTHER

    def _may_be_relevant(self, *, parent: bool) -> bool:
        """Return whether the keys of an object that opens here are read."""
        return not self._depth or (parent and self._in_value and self._key in self._places.objects)

    def _open(self, *, relevant: bool) -> None:
        self._depth += 1
        self._in_value = False
        if self._depth <= _MAX_DEPTH:
            self._relevant[self._depth] = relevant
