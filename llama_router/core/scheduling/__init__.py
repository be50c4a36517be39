"""Which model runs, who waits, who makes way. Sans-IO."""
