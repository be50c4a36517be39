"""The documentation of the installed version: its pages, and the search in them."""
