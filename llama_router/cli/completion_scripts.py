"""Scripts by which shells complete commands, options and names of models. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from .command_list import COMMANDS

#: The shells, each with the function that makes its script.
SHELLS: Final = ("bash", "zsh", "fish")

#: Options that take the path of a file or of a folder.
_PATHS: Final = frozenset(
    ("--config", "-c", "--token-file", "--key-file", "--image", "--folder", "--output", "-o",
     "--import-dir")
)  # fmt: skip

Options = Mapping[str, Sequence[tuple[str, str]]]
"""The options of each command: its name, and what it does."""


def script_for(shell: str, options: Options) -> str:
    """Return the script for *shell*, one of `SHELLS`."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](options)


def _bash(options: Options) -> str:
    words = " ".join((*(command.name for command in COMMANDS), "--help", "--version"))
    cases = "\n".join(
        f'        {command.name}) options="{" ".join(name for name, _ in options[command.name])}";'
        f" models={int(command.takes_models)} ;;"
        for command in COMMANDS
    )
    return f"""\
# Completion of llama-router for bash; made by: llama-router completion bash
_llama_router() {{
    local word=$2 before=$3 command=${{COMP_WORDS[1]}} options="" models=0
    COMPREPLY=()
    if (( COMP_CWORD == 1 )); then
        COMPREPLY=( $(compgen -W "{words}" -- "$word") )
        return
    fi
    case $command in
{cases}
    esac
    case $before in
        {"|".join(sorted(_PATHS))}) COMPREPLY=( $(compgen -f -- "$word") ); return ;;
    esac
    if [[ $word == -* ]]; then
        COMPREPLY=( $(compgen -W "$options" -- "$word") )
    elif (( models )); then
        # A colon separates words in bash: what stands before it must not come again.
        local line=${{COMP_LINE:0:COMP_POINT}} name
        local whole=${{line##*[[:space:]]}}
        while IFS= read -r name; do
            [[ $name == "$whole"* ]] && COMPREPLY+=( "${{name#"${{whole%"$word"}}"}}" )
        done < <(llama-router completion --models 2>/dev/null)
    else
        COMPREPLY=( $(compgen -f -- "$word") )
    fi
}}
complete -o filenames -o nosort -F _llama_router llama-router 2>/dev/null ||
    complete -o filenames -F _llama_router llama-router
"""


def _zsh(options: Options) -> str:
    commands = "\n".join(
        f"        {_quoted(f'{_without_colon(c.name)}:{c.summary}')}" for c in COMMANDS
    )
    cases = "\n".join(
        f"        {command.name}) options=("
        + " ".join(_quoted(f"{name}:{about}") for name, about in options[command.name])
        + f") models={int(command.takes_models)} ;;"
        for command in COMMANDS
    )
    return f"""\
#compdef llama-router
# Completion of llama-router for zsh; made by: llama-router completion zsh
_llama_router() {{
    local -a commands options names
    local models=0
    commands=(
{commands}
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    case $words[2] in
{cases}
    esac
    case $words[CURRENT-1] in
        {"|".join(sorted(_PATHS))}) _files; return ;;
    esac
    if [[ $PREFIX == -* ]]; then
        _describe option options
    elif (( models )); then
        names=( ${{(f)"$(llama-router completion --models 2>/dev/null)"}} )
        compadd -a names
    else
        _files
    fi
}}
if [[ $funcstack[1] == _llama_router ]]; then
    _llama_router "$@"
else
    compdef _llama_router llama-router
fi
"""


def _fish(options: Options) -> str:
    lines = [
        "# Completion of llama-router for fish; made by: llama-router completion fish",
        "complete -c llama-router -f",
    ]
    for command in COMMANDS:
        name, summary = command.name, _quoted(command.summary)
        lines.append(f"complete -c llama-router -n __fish_use_subcommand -a {name} -d {summary}")
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        lines.append(
            f"complete -c llama-router {seen} -a '(llama-router completion --models 2>/dev/null)'"
            if command.takes_models
            else f"complete -c llama-router {seen} -F"
        )
        for option, about in options[name]:
            form = f"-l {option[2:]}" if option.startswith("--") else f"-o {option[1:]}"
            path = " -r -F" if option in _PATHS else ""
            lines.append(f"complete -c llama-router {seen} {form}{path} -d {_quoted(about)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return *text* in single quotes, as all three shells read them."""
    return "'" + re.sub(r"[\s'\\]+", " ", text) + "'"


def _without_colon(text: str) -> str:
    return text.replace(":", r"\:")
