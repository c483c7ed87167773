"""Guard that blocks connections to other machines, for notebook kernels.

With this folder on ``PYTHONPATH``, the guard is active in a process and in its child processes.
pytest-socket covers only the process of the test, and a kernel runs outside of it.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

_NETWORK = (socket.AF_INET, socket.AF_INET6)
_LOCAL = ("127.", "localhost", "::1", "0.0.0.0")  # noqa: S104  (recognized, not listened on)


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        connection, address = arguments
        # Connecting a datagram socket sends nothing; libraries do it to find the local address.
        if connection.family not in _NETWORK or connection.type == socket.SOCK_DGRAM:
            return
        host = str(address[0])
    elif event == "socket.getaddrinfo":
        host = str(arguments[0] or "localhost")
    else:
        return
    if not host.startswith((*_LOCAL, socket.gethostname())):
        message = f"notebooks run without a network, but a connection to {host} was attempted."
        raise ConnectionRefusedError(message)


sys.addaudithook(_guard)
