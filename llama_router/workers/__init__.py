"""Work beside the event loop: worker processes, and the interpreter's settings for threads."""
