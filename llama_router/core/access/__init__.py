"""Access control: tokens, API keys, hosts and origins. Pure."""
