"""Ports for servers that are started later, as processes."""

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """One that is free, and that the kernel gives nobody who asks for any: those are 32768 and above."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
