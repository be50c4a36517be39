"""A scan for models in a process of its own."""
