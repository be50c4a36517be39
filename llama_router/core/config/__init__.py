"""``router.toml`` as values: what can be in it, and how it is read, compared and changed. Pure."""
