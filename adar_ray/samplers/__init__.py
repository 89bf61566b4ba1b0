"""Samplers: what they share, and those that ADAR is measured against, one file each."""

from adar_ray.samplers.ahns import AHNSSampler
from adar_ray.samplers.all_items import AllItems
from adar_ray.samplers.base import BaseSampler, Negatives, Sampler, SamplingContext
from adar_ray.samplers.dens import DENSSampler
from adar_ray.samplers.dns import DNSSampler
from adar_ray.samplers.in_batch import InBatchSampler
from adar_ray.samplers.mixgcf import MixGCFSampler
from adar_ray.samplers.popularity import PopularitySampler
from adar_ray.samplers.srns import SRNSSampler
from adar_ray.samplers.uniform import UniformSampler

__all__ = [
    "AHNSSampler",
    "AllItems",
    "BaseSampler",
    "DENSSampler",
    "DNSSampler",
    "InBatchSampler",
    "MixGCFSampler",
    "Negatives",
    "PopularitySampler",
    "SRNSSampler",
    "Sampler",
    "SamplingContext",
    "UniformSampler",
]
