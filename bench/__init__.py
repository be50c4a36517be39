"""Benchmarks: ``python -m bench proxy`` and ``python -m bench swap``, from the repository."""
