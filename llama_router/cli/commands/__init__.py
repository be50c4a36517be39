"""The commands: one module for each, or for a few that belong together.

A module has a command's options, its help and its work. It is imported only when one of its
commands is called (`llama_router.cli.app`).
"""
