"""The web application of the control plane: its server, access control and shared context."""
