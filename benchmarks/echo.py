"""The yardstick: a bare FastAPI application that gives every report back as it came, served by the same uvicorn.

python -m benchmarks.echo --port 8001
"""

import argparse

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Report(BaseModel):
    """The members of the bodies that the load generator sends."""

    epoch: int
    metrics: dict[str, float]
    attempt: int
    last_seq: int


@app.post("/v1/runs/{run}/reports")
async def echo(run: str, report: Report) -> Report:  # noqa: ARG001  # the path has it
    return report


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    # As remotelr_service/server.py has it.
    uvicorn.run(
        app,
        port=parser.parse_args().port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


if __name__ == "__main__":
    main()
