"""Backends: one process per model, from the choice of its port to the diagnosis of its exit."""
