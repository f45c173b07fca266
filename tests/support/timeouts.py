"""Limits of the product that a busy machine exceeds, made longer where a test is about something else.

Imported by `conftest.py`; and run in the place of `python -m remotelr_service`, for services that are processes. A test
of such a limit sets it by itself.
"""

import os

from remotelr_service.db import engine, sqlite_file
from remotelr_service.db.writer import writer
from remotelr_service.http.auth import token_cache
from remotelr_service.server import uvicorn_server

LONG_S = 60.0

writer.transaction_limit_s = lambda _: LONG_S
token_cache.REFRESH_TIMEOUT_S = LONG_S
engine._READERS["pool_timeout"] = LONG_S
sqlite_file.CHECK_LIMIT_S = LONG_S

if __name__ == "__main__":
    from remotelr_service.cli.main import main

    uvicorn_server.ABORT_AFTER_S = float(os.environ.pop("ABORT_AFTER_S", uvicorn_server.ABORT_AFTER_S))
    main()
