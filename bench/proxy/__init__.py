"""The proxy benchmark: what it costs to pass requests on, against other proxies."""
