"""Process trees: spawning, watching, ending and accounting for them."""
