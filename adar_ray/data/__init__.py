"""Sources of interactions, datasets made of them, and their way to the workers."""
