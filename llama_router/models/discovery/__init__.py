"""From GGUF files to models: names, kinds, parts that belong together. Pure."""
