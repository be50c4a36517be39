"""Discovery of models among GGUF files: `discover` turns the files of a scan into models. Pure."""
