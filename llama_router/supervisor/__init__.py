"""One router, from its start to its end, and the order in which it comes down."""
