"""Where a server listens: refused in a line when it cannot, and told with the port that it got."""

from __future__ import annotations

import errno
import socket

from core.errors import UserError


def listening(host: str, port: int) -> socket.socket:
    """An open socket. Args: port: 0 for any free one. Raises: UserError when the address cannot be used."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "is taken by another program" if taken else f"cannot be used ({error.strerror or error})"
        raise UserError(f"address {host}:{port} {reason}; choose another --port") from None


def url(listener: socket.socket) -> str:
    """The address of an open socket, as a browser wants it."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
