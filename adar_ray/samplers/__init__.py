"""The samplers that ADAR is measured against, one file each."""

from adar_ray.samplers.all_items import AllItems
from adar_ray.samplers.in_batch import InBatchSampler
from adar_ray.samplers.popularity import PopularitySampler
from adar_ray.samplers.uniform import UniformSampler

__all__ = ["AllItems", "InBatchSampler", "PopularitySampler", "UniformSampler"]
