"""Ports for servers that are started later, as processes."""

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """A free port below 32768: the kernel assigns higher ones to other sockets."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
