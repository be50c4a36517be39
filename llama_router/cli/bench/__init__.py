"""``bench``: how fast a model is for those who ask it through the router."""
