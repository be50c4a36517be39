"""The event loop of the data plane."""
