"""The beginning of a slot's file, as llama.cpp writes it: the tokens that the slot held. Pure.

Two files are of one conversation if the tokens of the newer one begin with nearly all of the older
one's. So no name and no record has to say what a conversation is about.

Source: llama.cpp, ``llama_context::state_seq_save_file``: a magic number, a version, the number of
integers of the prompt, and these. Since version 4 they are packed (``server_tokens::serialize``):
-1, a version, the number of tokens, the tokens, and then what belongs to images.
"""

from __future__ import annotations

import math
import struct
from typing import Final

#: Bytes before the prompt.
HEAD_BYTES: Final = 12

_HEAD: Final = struct.Struct("<4sII")
_MAGIC: Final = b"qsgg"  # LLAMA_STATE_SEQ_MAGIC, "ggsq", as a little-endian integer
_INT_BYTES: Final = 4
_PACKED: Final = struct.Struct("<iiI")

#: Most integers of a prompt; a file that says more is none.
_MOST_INTS: Final = 2**26

#: The part of an older file that a newer one has to begin with, to be of the same conversation:
#: most clients change the end of what they sent before.
SAME_PART: Final = 0.9


def prompt_bytes(head: bytes) -> int | None:
    """Return the length of the prompt behind *head*, in bytes; None if it is no slot's file."""
    if len(head) != HEAD_BYTES:
        return None
    magic, _version, n_ints = _HEAD.unpack(head)
    if magic != _MAGIC or n_ints > _MOST_INTS:
        return None
    return int(n_ints) * _INT_BYTES


def tokens_in(prompt: bytes) -> bytes:
    """Return the tokens in the *prompt* of a file, four bytes each."""
    if len(prompt) >= _PACKED.size:
        mark, _version, n_tokens = _PACKED.unpack_from(prompt)
        rest = prompt[_PACKED.size :]
        if mark == -1 and n_tokens * _INT_BYTES <= len(rest):
            return rest[: n_tokens * _INT_BYTES]
    return prompt[: len(prompt) // _INT_BYTES * _INT_BYTES]


def continues(older: bytes, newer: bytes) -> bool:
    """Return whether *newer*, the tokens of a file, go on with the conversation of *older*."""
    n_same = math.ceil(SAME_PART * (len(older) // _INT_BYTES))
    return n_same > 0 and older[: n_same * _INT_BYTES] == newer[: n_same * _INT_BYTES]
