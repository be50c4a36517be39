"""Names, answers and downloads of the hub. Pure."""
