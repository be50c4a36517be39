"""The configuration in force: loaded from ``router.toml`` and the found models, and reloaded."""
