"""Types of tensors: the numbers in a block of each, and the bytes that it takes. Pure.

Source: ggml, ggml.h and ggml-common.h.
"""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen
class TensorType:
    """A type of numbers, quantized in blocks or not.

    Attributes:
        name: ggml's name of it, in small letters, as in ``--cache-type-k``.
        block: Numbers in a block.
        block_bytes: Bytes that a block takes.
    """

    name: str
    block: int
    block_bytes: int

    def size_bytes(self, numbers: int) -> int:
        """Return the size of that many *numbers*."""
        return -(-numbers // self.block) * self.block_bytes


F16: Final = TensorType("f16", 1, 2)
F32: Final = TensorType("f32", 1, 4)

#: Every type by its number in a GGUF file.
BY_NUMBER: Final = {
    0: F32,
    1: F16,
    2: TensorType("q4_0", 32, 18),
    3: TensorType("q4_1", 32, 20),
    6: TensorType("q5_0", 32, 22),
    7: TensorType("q5_1", 32, 24),
    8: TensorType("q8_0", 32, 34),
    9: TensorType("q8_1", 32, 40),
    10: TensorType("q2_k", 256, 84),
    11: TensorType("q3_k", 256, 110),
    12: TensorType("q4_k", 256, 144),
    13: TensorType("q5_k", 256, 176),
    14: TensorType("q6_k", 256, 210),
    15: TensorType("q8_k", 256, 292),
    16: TensorType("iq2_xxs", 256, 66),
    17: TensorType("iq2_xs", 256, 74),
    18: TensorType("iq3_xxs", 256, 98),
    19: TensorType("iq1_s", 256, 50),
    20: TensorType("iq4_nl", 32, 18),
    21: TensorType("iq3_s", 256, 110),
    22: TensorType("iq2_s", 256, 82),
    23: TensorType("iq4_xs", 256, 136),
    24: TensorType("i8", 1, 1),
    25: TensorType("i16", 1, 2),
    26: TensorType("i32", 1, 4),
    27: TensorType("i64", 1, 8),
    28: TensorType("f64", 1, 8),
    29: TensorType("iq1_m", 256, 56),
    30: TensorType("bf16", 1, 2),
    34: TensorType("tq1_0", 256, 54),
    35: TensorType("tq2_0", 256, 66),
    39: TensorType("mxfp4", 32, 17),
    40: TensorType("nvfp4", 64, 36),
    41: TensorType("q1_0", 128, 18),
}

#: The same by name.
BY_NAME: Final = {type_.name: type_ for type_ in BY_NUMBER.values()}
