"""The port that a server listens on."""

from __future__ import annotations

import socket

from adar_ray.errors import AdarError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: a name, or an address of IPv4 or IPv6.
        port: 0 for any that is free.

    Raises:
        AdarError: the address is not this machine's, or the port is taken.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(where[:2], family=family)
    except (OSError, UnicodeError) as error:  # the latter for a name that no host can have
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
        raise AdarError(
            f"--host {host} --port {port}: cannot listen there ({reason}); give another"
        ) from error
