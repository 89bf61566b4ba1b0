"""What takes long to load and processes that train need: torch, the library, Numba, pandas for pyarrow.

The first call of a compiled loop loads what the others need too. Nothing here may start a thread, since
processes are forked from this one.
"""

import numpy as np
import pandas  # noqa: F401
import pytest  # noqa: F401

import adar_ray.training.trainer  # noqa: F401
from adar_ray import kernels

kernels.dots(np.zeros((1, 1), np.float32), np.zeros((1, 1, 1), np.float32), np.zeros((1, 1), np.float32))
