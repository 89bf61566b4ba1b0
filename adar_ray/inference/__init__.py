"""Trained models put to use: evaluated, asked for recommendations, exported, compared and published."""
