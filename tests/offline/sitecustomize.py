"""Put on PYTHONPATH: such a process, and those it starts, reach nothing beyond the machine.

A kernel runs outside the test's own process, where pytest-socket does not see it.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

_NETWORK = (socket.AF_INET, socket.AF_INET6)
_HERE = ("127.", "localhost", "::1", "0.0.0.0")  # noqa: S104  (recognized, not listened on)


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        connection, address = arguments
        # A datagram socket is connected to learn one's own address; that sends nothing.
        if connection.family not in _NETWORK or connection.type == socket.SOCK_DGRAM:
            return
        host = str(address[0])
    elif event == "socket.getaddrinfo":
        host = str(arguments[0] or "localhost")
    else:
        return
    if not host.startswith((*_HERE, socket.gethostname())):
        message = f"the notebooks run without a network, but {host} was asked for."
        raise ConnectionRefusedError(message)


sys.addaudithook(_guard)
