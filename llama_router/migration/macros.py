"""llama-swap's ``${NAME}``, ``${env.NAME}`` and built-in macros. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ..errors.config import ConfigError
from .yaml_tree import Node

#: Stands for ``${PORT}`` in expanded text. YAML text cannot contain this character.
PORT: Final = "\0"

#: Longest expanded text. A few lines of nested macros could expand to gigabytes.
MAX_CHARACTERS: Final = 100_000

_MACRO: Final = re.compile(r"\$\{([A-Za-z0-9_.-]+)\}")


class Macros:
    """The macros of one model.

    Args:
        macros: Values by name; the model's replace global ones of the same name.
        model: The model's name, for ``${MODEL_ID}``.
        environ: The environment, for ``${env.NAME}``.
    """

    def __init__(self, macros: Mapping[str, Node], model: str, environ: Mapping[str, str]) -> None:
        self._macros = macros
        self._model = model
        self._environ = environ
        #: Names of the environment variables that were replaced by their values.
        self.used_variables: set[str] = set()

    def expand(self, node: Node) -> str:
        """Return the text of *node* with its macros replaced; `PORT` stands for the port.

        Raises:
            ConfigError: if a macro is unknown or contains itself, if a variable is not set,
                or if the text becomes too long.
        """
        return self._expand(node.text, node, ())

    def _expand(self, text: str, node: Node, inside: tuple[str, ...]) -> str:
        pieces: list[str] = []
        length = at = 0
        for found in _MACRO.finditer(text):
            pieces += (text[at : found.start()], self._value(found[1], node, inside))
            length += len(pieces[-1]) + len(pieces[-2])
            if length > MAX_CHARACTERS:
                raise node.refuse(f"its macros expand to more than {MAX_CHARACTERS} characters")
            at = found.end()
        return "".join((*pieces, text[at:]))

    def _value(self, name: str, node: Node, inside: tuple[str, ...]) -> str:
        match name:
            case "PORT":
                return PORT
            case "MODEL_ID":
                return self._model
            case _ if name.startswith("env."):
                return self._variable(name.removeprefix("env."), node)
            case _ if name in inside:
                raise node.refuse(f"the macro ${{{name}}} contains itself")
            case _ if name in self._macros:
                return self._expand(self._macros[name].text, node, (*inside, name))
            case _:
                raise self._unknown(name, node)

    def _variable(self, name: str, node: Node) -> str:
        value = self._environ.get(name)
        if value is None:
            raise node.refuse(
                f"${{env.{name}}} is not set in the environment of this command; "
                f"run it with {name}=..."
            )
        if "\0" in value or not value.isprintable():
            raise node.refuse(f"the value of ${{env.{name}}} contains control characters")
        self.used_variables.add(name)
        return value

    def _unknown(self, name: str, node: Node) -> ConfigError:
        known = ", ".join(["PORT", "MODEL_ID", *self._macros])
        return node.refuse(f"unknown macro ${{{name}}}; known are: {known}")
