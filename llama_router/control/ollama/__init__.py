"""Ollama's API: requests are translated to OpenAI's for a backend, its answers back.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""
