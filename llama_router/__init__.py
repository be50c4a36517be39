"""llama-router: many local models behind one always-ready API."""

__version__ = "0.1.0"
