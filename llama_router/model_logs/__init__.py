"""Lines of logs, and which old files are given up. Pure."""
