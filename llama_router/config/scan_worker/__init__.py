"""Scans for models in a separate process."""
