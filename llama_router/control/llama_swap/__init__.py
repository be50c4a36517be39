"""llama-swap's own routes, for the tools that use them: running models, unload, logs, events."""
