"""The data plane: accept loop, wire parsing, relay."""
