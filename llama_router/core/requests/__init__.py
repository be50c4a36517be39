"""What a request asks for: its route, its model, its parameters. Pure."""
