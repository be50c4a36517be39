"""The dashboard at ``/ui/``: its static files, and the sessions of signed-in browsers."""
