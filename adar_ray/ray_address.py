"""Which Ray a command would use, without importing Ray: that takes seconds, and many commands need none."""

from __future__ import annotations

import os
import sys

API_SERVER = "RAY_API_SERVER_ADDRESS"
LOOPBACK = "127.0.0.1"  # where what a command starts listens, unless it is told another address


def ray_address() -> str | None:
    """The cluster to connect to; None to start Ray on this machine."""
    address = os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


def dashboard_address() -> str | None:
    """The dashboard that the environment names for jobs; None if it names none."""
    address = os.environ.get("RAY_ADDRESS", "")
    return os.environ.get(API_SERVER) or (address if address.startswith("http") else None)


def joins_cluster() -> bool:
    """Whether `ray_session` uses a Ray that runs already, rather than start one on this machine."""
    ray = sys.modules.get("ray")
    return ray_address() is not None or (ray is not None and ray.is_initialized())
