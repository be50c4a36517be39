"""One process each: spawn, readiness, output, reaping."""
