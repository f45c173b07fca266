"""What all tests share. Fixtures are in `support/fixtures/`, one file per subject, and are loaded here by name."""

import atexit
import os
import shutil
import tempfile

from hypothesis import HealthCheck, settings

from support import timeouts  # noqa: F401

# Keras chooses its backend when it is first imported: before any test module is. `make backends` chooses others.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ["JAX_PLATFORMS"] = "cpu"

# What trainers keep for a service that is away: not in the home folder of the account that runs the tests.
os.environ["REMOTELR_SPOOL_DIR"] = tempfile.mkdtemp(prefix="remotelr-spools-")
atexit.register(shutil.rmtree, os.environ["REMOTELR_SPOOL_DIR"], ignore_errors=True)

# A busy machine may stop for seconds in any example. The `@settings` of a test still has its say.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

pytest_plugins = [
    "support.fixtures.databases",
    "support.fixtures.mortal_service",
    "support.fixtures.processes",
    "support.fixtures.service",
    "support.fixtures.terminal",
]
