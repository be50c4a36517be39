"""From ``router.toml`` and the models that were found to the configuration in force."""
