"""Base models, one file each: its class, its settings and its declaration."""

from adar_ray.models.bert4rec import BERT4Rec
from adar_ray.models.fmlprec import FMLPRec
from adar_ray.models.gru4rec import GRU4Rec
from adar_ray.models.lightgcn import LightGCN
from adar_ray.models.mf import MF
from adar_ray.models.neumf import NeuMF
from adar_ray.models.ngcf import NGCF
from adar_ray.models.protocol import BaseModel, dot_score
from adar_ray.models.sasrec import SASRec
from adar_ray.models.simgcl import SimGCL
from adar_ray.models.twotower import TwoTower

__all__ = [
    "MF",
    "NGCF",
    "BERT4Rec",
    "BaseModel",
    "FMLPRec",
    "GRU4Rec",
    "LightGCN",
    "NeuMF",
    "SASRec",
    "SimGCL",
    "TwoTower",
    "dot_score",
]
