"""The method, in pure torch: schedule, transition point and score-aware function, sampler."""

from adar_ray.adar.sampler import AdarSampler
from adar_ray.adar.transition import score_aware_boundary, transition_angle
from adar_ray.models.protocol import dot_score
from adar_ray.samplers.base import Items, Negatives

__all__ = ["AdarSampler", "Items", "Negatives", "dot_score", "score_aware_boundary", "transition_angle"]
