"""Base models, one file each."""

from adar_ray.models.lightgcn import LightGCN
from adar_ray.models.mf import MF
from adar_ray.models.protocol import BaseModel, l2_vectors

__all__ = ["MF", "BaseModel", "LightGCN", "l2_vectors"]
