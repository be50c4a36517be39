"""What the header of a GGUF file says about the model in it. Pure."""

from __future__ import annotations

from typing import Final

import attrs

# Source: llama.h, enum llama_ftype; those that are in use.
_FILE_TYPES: Final = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
}

#: ``<architecture>.pooling_type`` of a reranker. Source: llama.h, enum llama_pooling_type.
POOLING_RANK: Final = 4
POOLING_LAST: Final = 3
POOLING_NONE: Final = 0


@attrs.frozen(kw_only=True)
class Header:
    """The part of a header that decides how a file is served; None is "not said".

    Attributes:
        architecture: llama.cpp's word for it; empty where a file that is no model has none.
        type: ``general.type``: model, mmproj, adapter, imatrix ...
        name: ``general.name``.
        file_type: ``general.file_type``, a number of llama.cpp's; it is often behind the
            vocabulary, where a quick look does not reach.
        tensor_count: 0 in a file that has a vocabulary only.
        context_length: Tokens that the model was trained for.
        embedding_length: Width of the model.
        block_count: Its layers.
        head_count: Attention heads, the most that a layer has.
        pooling_type: How an embedding model or a reranker pools.
        projection_dim: Width of what a projector hands to its model.
        chat_template: In Jinja; behind the vocabulary, too.
    """

    architecture: str
    type: str = "model"
    name: str | None = None
    file_type: int | None = None
    tensor_count: int = 1
    context_length: int | None = None
    embedding_length: int | None = None
    block_count: int | None = None
    head_count: int | None = None
    pooling_type: int | None = None
    projection_dim: int | None = None
    chat_template: str | None = None

    @property
    def quant(self) -> str | None:
        """Return the name of the file type."""
        return None if self.file_type is None else _FILE_TYPES.get(self.file_type)

    @property
    def is_projector(self) -> bool:
        """Return whether the file makes another model see or hear."""
        return self.type == "mmproj" or self.architecture == "clip"
