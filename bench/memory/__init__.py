"""The estimate of a model's memory, beside what llama.cpp reports."""
