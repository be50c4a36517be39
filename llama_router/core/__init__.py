"""The router's decisions. Sans-IO: no clock, no files, no sockets, no processes, no Trio."""
