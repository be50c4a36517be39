"""Typed access to a YAML map, which keeps track of the entries not taken yet. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from .yaml_tree import Node, NodeKind


class Fields:
    """The entries of a map. Each method removes the entry that it returns; `rest` has the others.

    A null value (``key:`` alone) counts as absent, as it does in llama-swap.

    Raises:
        ConfigError: here and in every method, if a value is not of the expected kind.
    """

    def __init__(self, node: Node | None) -> None:
        if node is not None and node.kind not in {NodeKind.MAP, NodeKind.NOTHING}:
            raise node.refuse(f"expected a map, got {node.kind}")
        fields = {} if node is None else node.fields
        self._remaining = {
            name: each for name, each in fields.items() if each.kind is not NodeKind.NOTHING
        }

    def take(self, key: str) -> Node | None:
        """Return the value of *key*, of any kind; None if there is none."""
        return self._remaining.pop(key, None)

    def peek(self, key: str) -> Node | None:
        """Return the value of *key* without removing it."""
        return self._remaining.get(key)

    def map(self, key: str) -> Fields:
        """Return the map at *key*; an empty one if there is none."""
        return Fields(self.take(key))

    def named(self, key: str) -> dict[str, Node]:
        """Return the entries of the map at *key*."""
        return dict(Fields(self.take(key)).rest())

    def text(self, key: str) -> Node | None:
        """Return the scalar at *key*; numbers and booleans count as text."""
        return None if (node := self.take(key)) is None else scalar(node)

    def whole(self, key: str, *, minimum: int = 0) -> int | None:
        """Return the whole number at *key*."""
        if (node := self.take(key)) is None:
            return None
        try:
            number = int(node.text) if node.kind is NodeKind.WHOLE else None
        except ValueError:
            number = None
        if number is None:
            raise node.refuse(f"expected a whole number, got {node.text or node.kind}")
        if number < minimum:
            raise node.refuse(f"must be at least {minimum}")
        return number

    def boolean(self, key: str) -> bool | None:
        """Return the truth value at *key*."""
        if (node := self.take(key)) is None:
            return None
        if node.kind is not NodeKind.BOOLEAN:
            raise node.refuse(f"expected true or false, got {node.text or node.kind}")
        return node.text.lower() in {"true", "yes", "on"}

    def list(self, key: str) -> tuple[Node, ...]:
        """Return the elements of the list at *key*; empty if there is none."""
        if (node := self.take(key)) is None:
            return ()
        if node.kind is not NodeKind.LIST:
            raise node.refuse(f"expected a list, got {node.kind}")
        return node.items

    def texts(self, key: str) -> tuple[Node, ...]:
        """Return the elements of the list at *key*, each of them a scalar."""
        return tuple(scalar(item) for item in self.list(key))

    def rest(self) -> Iterator[tuple[str, Node]]:
        """Yield key and value of each entry that was not taken."""
        yield from self._remaining.items()


def scalar(node: Node) -> Node:
    """Return *node*, which must be text or a number.

    Raises:
        ConfigError: if it is something else.
    """
    if node.kind in {NodeKind.LIST, NodeKind.MAP, NodeKind.NOTHING}:
        raise node.refuse(f"expected text, got {node.kind}")
    return node
