"""Between requests and backends: who holds which model, which backends run."""
