"""What an answer says: errors, notices, names, token figures. Pure."""
