"""All items ranked for users: to evaluate a model, and to use it."""
