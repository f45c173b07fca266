"""What the package offers, and what importing it costs."""

import subprocess
import sys
from typing import get_args, get_type_hints

import remotelr
from remotelr import rules


def classes_in(annotation: object) -> set[type]:
    """`list[A | B]` -> A, B."""
    if isinstance(annotation, type) and not get_args(annotation):
        return {annotation}
    return {kind for part in get_args(annotation) for kind in classes_in(part)}


def test_every_public_name_is_there_and_documented():
    undocumented = [name for name in remotelr.__all__ if not getattr(remotelr, name).__doc__]

    assert undocumented == []


def test_whatever_the_client_gives_can_be_named():
    """
    A user needs every class that the calls give, for type annotations.
    """
    calls = [getattr(owner, name) for owner in (remotelr.Client, remotelr.Run) for name in dir(owner) if name[0] != "_"]
    given = {get_type_hints(call).get("return") for call in calls if callable(call)}
    ours = {kind for each in given for kind in classes_in(each) if kind.__module__.startswith("remotelr")}
    unnamed = {kind for kind in ours if kind not in [getattr(home, kind.__name__, None) for home in (remotelr, rules)]}

    assert {remotelr.ReportRecord, remotelr.CommandReceipt} <= ours
    assert unnamed == set()


def test_the_rules_alone_need_nothing_but_the_standard_library():
    code = "import sys, remotelr.rules; print(sorted({'httpx', 'keras', 'pydantic', 'numpy'} & set(sys.modules)))"

    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert printed.strip() == "[]"


def test_the_client_alone_brings_no_framework():
    code = "import sys; from remotelr import Client; print(sorted({'keras', 'pydantic', 'jax'} & set(sys.modules)))"

    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert printed.strip() == "[]"
