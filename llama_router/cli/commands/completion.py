"""``completion``: a script that completes commands, options and names of models in a shell."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from ..command_list import COMMANDS
from ..completion_names import print_names
from ..completion_scripts import script_for
from ..failures import CommandError
from ..printing import print_error


def completion(
    shell: Literal["bash", "zsh", "fish"] | None = None,
    /,
    *,
    models: Annotated[bool, Parameter(name="--models", negative="")] = False,
) -> int:
    """Print a script that completes commands, options and models in a shell.

    Args:
        shell: The shell.
        models: Print the names of models, one a line, as the script does.
    """
    if models:
        print_names()
        return 0
    if shell is None:
        print_error(CommandError("which shell?", cure="llama-router completion bash|zsh|fish"))
        return 2
    sys.stdout.write(script_for(shell, options_of_commands()))
    return 0


def options_of_commands() -> dict[str, list[tuple[str, str]]]:
    """Return the options of each command, and the first sentence about each."""
    from ..app import app  # noqa: PLC0415 -- it imports this module when it is called

    found: dict[str, list[tuple[str, str]]] = {}
    for command in COMMANDS:
        options = found[command.name] = [("--help", "Show the options and examples.")]
        for argument in app[command.name].assemble_argument_collection():
            about = (argument.parameter.help or "").partition(". ")[0]
            options += [(name, about) for name in argument.names if name.startswith("-")]
    return found
