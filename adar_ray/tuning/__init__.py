"""Searching parameters: what is searched, how, and what came of it."""
