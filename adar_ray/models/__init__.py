"""Base models, one file each."""

from adar_ray.models.lightgcn import LightGCN
from adar_ray.models.mf import MF
from adar_ray.models.protocol import BaseModel

__all__ = ["MF", "BaseModel", "LightGCN"]
