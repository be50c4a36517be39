"""Models of the Hugging Face hub: references, downloads and the cache."""
