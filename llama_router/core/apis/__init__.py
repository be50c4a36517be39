"""API dialects: one `ApiDialect` per API, and what all of them share. Pure."""
