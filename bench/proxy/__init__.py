"""The proxy benchmark: the cost of passing requests on, against other proxies."""
