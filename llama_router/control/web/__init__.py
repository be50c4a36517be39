"""The application, its server, access control and shared context."""
