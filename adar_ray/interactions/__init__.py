"""Who interacted with what, in memory, for look-ups a batch at a time."""

PADDING = -1
"""Stands where a batch has no row, and where a sequence has no item."""
