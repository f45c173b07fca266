"""The examples in the docstrings of what a user names are true."""

import doctest
from importlib import import_module

import pytest

import remotelr

MODULES = sorted({getattr(remotelr, name).__module__ for name in ("Client", "Decision", "Run")} | {"remotelr.testing"})


@pytest.mark.parametrize("module", MODULES)
def test_what_an_example_prints_is_what_it_shows(module):
    ended = doctest.testmod(import_module(module))

    assert ended.attempted > 3
    assert ended.failed == 0
