"""Structured logs: text on a terminal, fields in the journal, JSON lines elsewhere.

Modules log with `events.log`, and events named ``noun.past_participle``; the program calls
`output.configure` once. Every event is in ``docs/reference/log-events.md``.
"""
