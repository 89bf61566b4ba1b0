"""Sources of interactions, the datasets made from them, and how datasets reach the workers."""
