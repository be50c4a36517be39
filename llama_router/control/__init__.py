"""The control plane: a Quart-Trio application served by Hypercorn pieces."""
