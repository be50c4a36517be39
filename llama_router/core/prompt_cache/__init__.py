"""Prompt caches that survive their process: which slots are saved, which files are kept. Pure."""
