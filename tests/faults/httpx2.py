"""A pytest plugin (`-p faults.httpx2`): the client finds httpx2 alone, as where httpx is not installed."""

import sys

_known = sys.modules.pop("httpx", None)
sys.modules["httpx"] = None  # type: ignore[assignment]  # the import system then finds no such module
import remotelr._http.transport  # noqa: E402, F401 - now, while there is no httpx

del sys.modules["httpx"]
if _known is not None:
    sys.modules["httpx"] = _known
