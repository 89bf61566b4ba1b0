"""The samplers that ADAR is measured against, one file each."""

from adar_ray.samplers.uniform import UniformSampler

__all__ = ["UniformSampler"]
