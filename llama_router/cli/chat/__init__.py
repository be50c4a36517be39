"""Chat in the terminal: ``llama-router run``."""
