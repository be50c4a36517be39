"""Admission, queues, turns, placement, and the lifecycle of backends. Sans-IO."""
