"""Who may ask for what, and where a router may listen. Pure."""
