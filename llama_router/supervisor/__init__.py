"""Runs one router: builds its parts, runs its task tree, and shuts it down in order."""
