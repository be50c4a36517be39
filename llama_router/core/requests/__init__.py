"""Requests: their routes, models, parameters and bodies. Pure."""
