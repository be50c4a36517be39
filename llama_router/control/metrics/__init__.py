"""Metrics for Prometheus: the router's own, and those of its backends."""
