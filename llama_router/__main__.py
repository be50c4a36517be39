"""``python -m llama_router``: the same program as ``llama-router``."""

from .cli import main

if __name__ == "__main__":
    main()
