"""A real service for real fits."""

import re
from pathlib import Path

import pytest

from remotelr import Client
from remotelr.keras import RemoteLR
from support.fixtures.service import Service

# Keras 3.15 turns its variables into arrays in a way NumPy 2 warns of; its own callbacks do so all the time.
KERAS_AND_NUMPY = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings(KERAS_AND_NUMPY))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without a `timeout_s` of its own waits as long as a busy machine takes."""
    for each in (Client, RemoteLR):
        monkeypatch.setitem(each.__init__.__kwdefaults__, "timeout_s", 60.0)


@pytest.fixture
def url(shared_service: Service) -> str:
    """The address of a service that stays up."""
    return shared_service.url


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A run of the test's own."""
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")[:190]
