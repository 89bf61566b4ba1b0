"""Interactions in memory, to look up for a batch at a time."""

PADDING = -1
"""Marks an empty row of a batch and an empty position of a sequence."""
