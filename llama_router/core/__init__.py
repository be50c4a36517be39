"""Decisions. Sans-IO: no clock, no files, no sockets, no processes, no Trio."""
