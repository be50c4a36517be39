"""The commands as the command line sees them: options and help. The work is done elsewhere."""
