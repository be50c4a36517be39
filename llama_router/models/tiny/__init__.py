"""Tiny deterministic GGUF models with random weights: for tests, benchmarks and a first try.

llama.cpp loads them like any other model and answers within milliseconds. The
chat model knows about 200 common words and says nothing but these, because a
constant dimension of its residual stream lets the output layer work as a
per-token bias: control tokens, raw bytes and fragments of words are pushed down.

Needs the ``gguf`` package and numpy (the extra ``embedded``); both are imported
when a model is made, not with these modules.
"""
