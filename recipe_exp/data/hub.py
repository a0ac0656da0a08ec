"""Whether the Hugging Face hub can be asked, found out in seconds instead of minutes."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

_PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def hub_is_reachable(timeout_seconds: float = 5.0) -> bool:
    """Returns whether the hub's host takes a connection.

    transformers asks an unreachable hub again and again for about a minute; one connection tells the same. Behind a
    proxy only the proxy knows, so the answer is yes.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    if any(os.environ.get(name) for name in _PROXY_VARIABLES):
        return True
    host = urlsplit(constants.ENDPOINT)
    try:
        port = host.port or (80 if host.scheme == "http" else 443)
        socket.create_connection((host.hostname or "", port), timeout=timeout_seconds).close()
    except OSError:
        return False
    return True
