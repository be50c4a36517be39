"""Ollama's API in terms of OpenAI's: requests one way, answers the other. Pure.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""
