"""Model files on this machine; also tiny ones, made for the demo and the tests."""
