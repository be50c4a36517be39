"""llama.cpp's router API, chat UI and resumable streams."""
