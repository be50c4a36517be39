"""Benchmarks; each is run as ``python -m bench.NAME`` from the repository."""
