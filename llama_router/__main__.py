"""``python -m llama_router``: the same as the ``llama-router`` command."""

from .cli import main

if __name__ == "__main__":
    main()
