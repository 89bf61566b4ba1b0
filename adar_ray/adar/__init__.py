"""The method, in pure torch: noise, transition point and score-aware function, sampler."""

from adar_ray.adar.sampler import AdarSampler, AdarSettings
from adar_ray.adar.transition import score_aware_boundary, transition_angle
from adar_ray.models.protocol import dot_score
from adar_ray.samplers.base import Negatives, SamplingContext

__all__ = [
    "AdarSampler",
    "AdarSettings",
    "Negatives",
    "SamplingContext",
    "dot_score",
    "score_aware_boundary",
    "transition_angle",
]
