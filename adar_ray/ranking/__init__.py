"""All items ranked for users, exactly, in pure torch."""
