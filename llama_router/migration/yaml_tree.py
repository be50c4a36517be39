"""YAML text as a tree of nodes with line numbers. Pure, and safe on hostile text.

The text is only composed, never constructed, so no tag can create an object.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeAlias

import attrs
import yaml

from ..errors.config import ConfigError, Problem

Where: TypeAlias = tuple[str | int, ...]

#: Bounds of a document. An alias counts each time that it is used: a few lines of nested aliases
#: could otherwise make billions of nodes.
MAX_NODES: Final = 100_000
MAX_DEPTH: Final = 50

_TAG: Final = "tag:yaml.org,2002:"


class NodeKind(StrEnum):
    """The kind of a node, in words for an error."""

    TEXT = "text"
    WHOLE = "a whole number"
    NUMBER = "a number"
    BOOLEAN = "true or false"
    NOTHING = "nothing"
    LIST = "a list"
    MAP = "a map"


_KINDS: Final = {
    f"{_TAG}int": NodeKind.WHOLE,
    f"{_TAG}float": NodeKind.NUMBER,
    f"{_TAG}bool": NodeKind.BOOLEAN,
    f"{_TAG}null": NodeKind.NOTHING,
}


@attrs.frozen
class Node:
    """One value.

    Attributes:
        kind: Its kind.
        where: Its path: keys and indexes.
        line: Line of its key if it has one, else of the value; from 1.
        text: A scalar as written, without quotes.
        items: Elements of a list.
        fields: Entries of a map, in order.
    """

    kind: NodeKind
    where: Where
    line: int
    text: str = ""
    items: tuple[Node, ...] = ()
    fields: dict[str, Node] = attrs.field(factory=dict)

    def refuse(self, message: str) -> ConfigError:
        """Return an error about this value."""
        return ConfigError((Problem(self.where, message, self.line),))

    def plain(self) -> str:
        """Return the value as one line of YAML, for a comment."""
        match self.kind:
            case NodeKind.LIST:
                return f"[{', '.join(item.plain() for item in self.items)}]"
            case NodeKind.MAP:
                fields = (f"{name}: {node.plain()}" for name, node in self.fields.items())
                return f"{{{', '.join(fields)}}}"
            case _:
                return " ".join(self.text.split())


def parse(text: str) -> Node:
    """Return the root of the one document in *text*.

    Raises:
        ConfigError: if it is not YAML, has a duplicate key, or is too large.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = None if mark is None else mark.line + 1
        why = ", ".join(part for part in (exc.context, exc.problem) if part)
        raise ConfigError((Problem((), f"not valid YAML: {why}", line),)) from exc
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        message = f"not valid YAML: the character U+{ord(text[exc.position]):04X} is not allowed"
        raise ConfigError((Problem((), message, line),)) from exc
    except RecursionError as exc:
        raise ConfigError((Problem((), "lists or maps are nested too deeply"),)) from exc
    except (ValueError, OverflowError) as exc:  # an escape that is no Unicode character
        raise ConfigError((Problem((), f"not valid YAML: {exc}"),)) from exc
    if root is None:
        return Node(NodeKind.NOTHING, (), 1)
    return _Converter().node(root, ())


class _Converter:
    def __init__(self) -> None:
        self._nodes = 0

    def node(self, node: yaml.Node, where: Where, line: int | None = None) -> Node:
        line = node.start_mark.line + 1 if line is None else line
        self._nodes += 1
        if self._nodes > MAX_NODES or len(where) > MAX_DEPTH:
            message = f"more than {MAX_NODES} values, or nested over {MAX_DEPTH} deep"
            raise ConfigError((Problem(where[:1], message, line),))
        if isinstance(node, yaml.MappingNode):
            return Node(NodeKind.MAP, where, line, fields=self._fields(node, where))
        if isinstance(node, yaml.SequenceNode):
            items = tuple(self.node(item, (*where, i)) for i, item in enumerate(node.value))
            return Node(NodeKind.LIST, where, line, items=items)
        text = str(node.value)
        try:
            text.encode()
        except UnicodeEncodeError:
            message = "a lone surrogate is not a character"
            raise ConfigError((Problem(where, message, line),)) from None
        return Node(_KINDS.get(node.tag, NodeKind.TEXT), where, line, text=text)

    def _fields(self, node: yaml.MappingNode, where: Where) -> dict[str, Node]:
        """Return the entries of a map; they replace those that ``<<`` merges in."""
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == f"{_TAG}merge":
                sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for source in sources:
                    entries = self.node(source, where)
                    if entries.kind is not NodeKind.MAP:
                        raise ConfigError((Problem(where, "'<<' needs a map to merge", line),))
                    merged = entries.fields | merged
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError((Problem(where, "a key must be text", line),))
            name = self.node(key, where).text
            if name in own:
                message = f"duplicate key {name!r}"
                raise ConfigError((Problem((*where, name), message, line),))
            own[name] = self.node(value, (*where, name), line)
        return merged | own
