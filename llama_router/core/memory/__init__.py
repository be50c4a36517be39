"""Memory of devices: what there is, what a model takes, and who holds what. Pure."""
