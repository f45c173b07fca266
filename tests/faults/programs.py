"""Small trainers that fork, spawn and leave as programs do: `programs.py <which> <url> <folder>`."""

import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from remotelr import Client
from remotelr._session.journal import Journal
from remotelr._session.session import Session
from remotelr._session.spool import Spool, spool_path

HALVING = {"type": "step", "step_size": 1, "gamma": 0.5, "initial_learning_rate": 1.0}


def session(url: str, folder: str, run: str, timeout_s: float = 60.0) -> Session:
    journal = Journal(Spool(spool_path(Path(folder), url, run)))
    begun = Session(Client(url, timeout_s=timeout_s), run, {"policy": HALVING}, journal=journal, say=print)
    begun.open()
    begun.begin(0, 0)
    return begun


def report(of: Session, epoch: int) -> None:
    of.renew_budget()
    of.report(epoch, {"loss": 1.0}, step=None, learning_rate=of.learning_rate(epoch, 0))


def loads_data(url: str, folder: str) -> None:
    """Data loaders of both kinds between the epochs; one leaves as a program does, with all its farewells."""
    training = session(url, folder, "loaders")
    for epoch, kind in enumerate(("fork", "spawn", "exit")):
        report(training, epoch)
        if kind != "exit":
            with multiprocessing.get_context(kind).Pool(2) as pool:
                assert pool.map(abs, range(-4, 0)) == [4, 3, 2, 1]
            continue
        child = os.fork()
        if child == 0:
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
    report(training, 3)
    print(training.learning_rate(4, 0))
    training.finish("completed")


def shares_a_client(url: str, folder: str) -> None:
    """Forked processes that go on with the client of their parent, all at once, and that many times.

    A process that reads a part of another's answer then makes its own connection, and mixes up no more answers.
    """
    print(sum(_mixed_up_by_forks(url, turn) for turn in range(6)))


def _mixed_up_by_forks(url: str, turn: int) -> int:
    with Client(url, timeout_s=60.0) as client:
        runs = [client.run(f"shared-{turn}-{number}", policy=HALVING) for number in range(4)]
        waits, begins = os.pipe()
        children = []
        for number in range(1, 4):
            child = os.fork()
            if child == 0:
                os.close(begins)
                os.read(waits, 1)
                os._exit(_mixed_up(client, runs[number].key))
            children.append(child)
        os.close(begins)
        mixed_up = _mixed_up(client, runs[0].key)
        os.close(waits)
        return mixed_up + sum(os.waitpid(child, 0)[1] for child in children)


def _mixed_up(client: Client, key: str) -> int:
    return int(any(client.get_run(key).key != key for _ in range(10)))


def forks_in_the_middle(url: str, folder: str) -> None:
    """Another thread is just making the connection, lock in hand, while this one forks."""
    client = Client(url, timeout_s=60.0)
    connections: Any = client._service.transport._connections
    connections._lock.acquire()
    child = os.fork()
    if child == 0:
        client.run("forked", policy=HALVING)
        os._exit(0)
    print(os.waitpid(child, 0)[1])
    connections._lock.release()


def leaves_in_the_middle(url: str, folder: str) -> None:
    """The program ends while its last call is in a name resolution, which cannot be interrupted."""
    training = session(url, folder, "stuck")
    socket.getaddrinfo = lambda *_, **__: time.sleep(600)
    _close_service(training)
    training._service._budget.seconds = 0.3
    report(training, 0)
    assert any(thread.name == "remotelr-call" for thread in threading.enumerate())


def leaves_without_a_word(url: str, folder: str) -> None:
    """An exception ends the program without a close."""
    training = session(url, folder, "stalled", timeout_s=0.3)
    report(training, 0)
    raise SystemExit(3)


def _close_service(of: Session) -> None:
    assert of._has_service
    of._service.close()


PROGRAMS: dict[str, Callable[[str, str], None]] = {
    each.__name__: each
    for each in (loads_data, shares_a_client, forks_in_the_middle, leaves_in_the_middle, leaves_without_a_word)
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2], sys.argv[3])
