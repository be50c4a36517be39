"""Ollama's chat templates as those that llama.cpp has built in, by the marks in them. Pure.

Ollama's are in Go's language, which llama.cpp does not read. Nearly all files have a template of
their own, which counts first.

Source: llama.cpp, src/llama-chat.cpp.
"""

from __future__ import annotations

from typing import Final

#: Marks that only templates of one family have, and llama.cpp's name of it; the first counts.
_MARKS: Final = (
    ("<|start_header_id|>", "llama3"),
    ("<|header_start|>", "llama4"),
    ("<|im_start|>", "chatml"),
    ("<start_of_turn>", "gemma"),
    ("<|start_of_role|>", "granite"),
    ("<|START_OF_TURN_TOKEN|>", "command-r"),
    ("<｜User｜>", "deepseek3"),  # noqa: RUF001 -- DeepSeek's own signs
    ("[gMASK]", "chatglm4"),
    ("[SYSTEM_PROMPT]", "mistral-v7"),
    ("<<SYS>>", "llama2-sys"),
    ("[INST]", "mistral-v1"),
    ("<|end|>", "phi3"),
    ("<|user|>", "zephyr"),
    ("GPT4 Correct User:", "openchat"),
    ("### Instruction:", "deepseek"),
    ("USER:", "vicuna"),
)


def built_in_template(template: str) -> str | None:
    """Return the name of llama.cpp's template of the same family; None if none is known."""
    return next((name for mark, name in _MARKS if mark in template), None)
