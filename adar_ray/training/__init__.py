"""The loop of one worker, and the trainer that runs many."""
