"""Translation of other routers' configurations into ``router.toml``. Pure: text in, text out."""
