"""Tiny GGUF models with random weights, always the same bytes: for tests, benchmarks and `demo`.

llama.cpp loads them like any other model and answers within milliseconds. The
chat model generates only some 200 common words: a constant dimension of its
residual stream makes the output layer add a bias to each token, which is
negative for control tokens, raw bytes and fragments of words.

Needs the ``gguf`` package and numpy (the extra ``embedded``); both are imported
when a model is written, not with these modules.
"""
