"""Compares trained models and baselines on one dataset, with paired tests over users."""
