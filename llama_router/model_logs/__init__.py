"""The logs of models: output of their backends and notes of the router, in memory and files."""
