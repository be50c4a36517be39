"""Warnings about probable mistakes in the command of a model. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..core.config.containers import container_command
from ..core.config.kinds import as_table, is_llama_server
from ..core.config.placeholders import names_in
from ..core.config.specs import ModelSpec
from ..errors.config import Where

#: Options and variables by which llama-server gets a model. Source: ``llama-server --help``.
_MODEL_OPTIONS: Final = frozenset(
    (
        *("-m", "--model", "-mu", "--model-url", "-dr", "--docker-repo"),
        *("-hf", "-hfr", "--hf-repo"),
    )
)
_MODEL_VARIABLES: Final = frozenset(
    (*("LLAMA_ARG_MODEL", "LLAMA_ARG_MODEL_URL", "LLAMA_ARG_DOCKER_REPO", "LLAMA_ARG_HF_REPO"),)
)

#: Options that print something, and end.
_OTHER_USES: Final = frozenset(("--version", "--help", "-h", "--list-devices"))

# An option and its value in one word, which no program takes apart.
_JOINED: Final = re.compile(r"--?[A-Za-z][\w-]*\s+\S.*", re.DOTALL)


def command_warnings(spec: ModelSpec) -> Iterator[str]:
    """Yield a sentence about each probable mistake in the command of *spec*."""
    words = (*spec.spawn.command, *spec.spawn.args)
    used = frozenset[str]().union(*map(names_in, (*words, *spec.spawn.env.values())))
    program = words[0]
    if len(spec.spawn.command) == 1 and _is_command_line(program):
        yield (
            "the whole command is one word; each argument is an element of its own: "
            f"{_split(program)}"
        )
        return
    if "port" not in used:
        yield (
            "it does not use '$port': the backend must listen on the port that the router chooses "
            "for each start"
        )
    if spec.path is not None and "path" not in used:
        yield "it does not use '$path', so the model's 'path' has no effect"
    container = container_command(words)
    if container is not None and container.name is None:
        yield (
            "its container has no name, so it cannot be found and removed if it outlives its "
            "client: add '--name', '$container'"
        )
    if not is_llama_server(program):
        return
    joined = next((word for word in words[1:] if _JOINED.fullmatch(word)), None)
    if joined is not None:
        yield f"{joined!r} is one argument; each one is an element of its own: {_split(joined)}"
    elif not _gets_a_model(words, spec.spawn.env):
        yield "it names no model: llama-server then starts as a router of its own"


def command_place(document: Mapping[str, Any], spec: ModelSpec) -> Where:
    """Return the place in *document* that the command of *spec* comes from."""
    model = as_table(as_table(document.get("models")).get(str(spec.id)))
    if "command" in as_table(model.get("spawn")):
        return ("models", str(spec.id), "spawn", "command")
    template = str(spec.template)
    if "command" in as_table(as_table(document.get("templates")).get(template)):
        return ("templates", template, "command")
    if "command" in as_table(document.get("default_spawn")):
        return ("default_spawn", "command")
    return ("models", str(spec.id))


def _is_command_line(program: str) -> bool:
    """Return whether *program* has arguments in it; a path may contain spaces."""
    first, *others = program.split() or [""]
    if "/" not in first:
        return bool(others)
    return any(word.startswith(("-", "$")) for word in others)


def _gets_a_model(words: tuple[str, ...], env: Mapping[str, str]) -> bool:
    options = {word.partition("=")[0] for word in words[1:]}
    return (
        bool(options & (_MODEL_OPTIONS | _OTHER_USES))
        or bool(env.keys() & _MODEL_VARIABLES)
        or any(option.startswith("--") and option.endswith("-default") for option in options)
    )


def _split(text: str) -> str:
    """Return *text* as a TOML array of its words."""
    try:
        words = shlex.split(text)
    except ValueError:  # an open quotation mark
        words = text.split()
    return f"[{', '.join(f'{word!r}' for word in words)}]"
