"""What is on disk: model files and, for the demo and the tests, tiny ones made here."""
