"""Worker processes of the router itself."""
