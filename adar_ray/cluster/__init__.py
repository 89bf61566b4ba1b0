"""Jobs: what is submitted to a Ray cluster, followed and stopped there, and what runs it."""
