"""The Model Context Protocol at ``/mcp``: lets a language model look at the router and use it."""
