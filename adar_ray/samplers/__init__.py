"""The samplers that ADAR is measured against, one file each."""

from adar_ray.samplers.ahns import AHNSSampler
from adar_ray.samplers.all_items import AllItems
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
    "DENSSampler",
    "DNSSampler",
    "InBatchSampler",
    "MixGCFSampler",
    "PopularitySampler",
    "SRNSSampler",
    "UniformSampler",
]
