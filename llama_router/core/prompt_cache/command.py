"""The option that lets a llama-server keep its slots, and what forbids it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ..config.kinds import is_llama_server
from ..memory.flags import option_names

#: Sets the folder of slots' files, and enables ``POST /slots/N``.
#: Source: llama.cpp, common/arg.cpp.
OPTION: Final = "--slot-save-path"
_VARIABLE: Final = "LLAMA_ARG_SLOT_SAVE_PATH"

#: Adapters change what a token's state is, and can be switched at any time; a slot's file does not
#: say which were on.
_ADAPTERS: Final = frozenset(("--lora", "--lora-scaled"))
_ADAPTER_VARIABLES: Final = frozenset(("LLAMA_ARG_LORA", "LLAMA_ARG_LORA_SCALED"))

#: Servers of such models have nothing to keep.
_WITHOUT_CACHE: Final = frozenset(("--embedding", "--embeddings", "--rerank", "--reranking"))
_WITHOUT_CACHE_VARIABLES: Final = frozenset(("LLAMA_ARG_EMBEDDINGS", "LLAMA_ARG_RERANKING"))


def reason_against(words: Sequence[str], env: Mapping[str, str]) -> str | None:
    """Return why a program keeps no prompt cache, as a clause; None if it can.

    Args:
        words: Its command, as it is configured.
        env: Its variables.
    """
    if not words or not is_llama_server(words[0]):
        return "its program is no llama-server"
    options = frozenset(option_names(words))
    if OPTION in options or _VARIABLE in env:
        return f"its command has a {OPTION} of its own"
    if options & _ADAPTERS or env.keys() & _ADAPTER_VARIABLES:
        return "it has LoRA adapters, and a saved cache does not say which of them were on"
    if options & _WITHOUT_CACHE or env.keys() & _WITHOUT_CACHE_VARIABLES:
        return "it generates no text"
    if "--no-cache-prompt" in options:
        return "its command has --no-cache-prompt"
    return None
