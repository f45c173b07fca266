"""The published path of the application factory: `uvicorn --factory remotelr_service.serving:from_environment`."""

from remotelr_service.server.startup import from_environment

__all__ = ["from_environment"]
