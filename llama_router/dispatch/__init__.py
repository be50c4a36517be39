"""Requests and backends: leases on models, and the tasks that run the backends."""
