"""Exact rankings of all items, in pure torch."""
