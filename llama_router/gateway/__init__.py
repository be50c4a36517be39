"""The data plane: accepts connections, and passes requests for models to their backends."""
