"""API dialects of clients: errors, notices, model names, token figures. Pure."""
