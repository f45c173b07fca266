"""docs/frameworks.md: the loop of one's own runs as it stands."""

import re
from pathlib import Path

from remotelr import Client

PAGE = (Path(__file__).parents[3] / "docs" / "frameworks.md").read_text()


def block_of(heading: str) -> str:
    (block,) = re.findall(rf"^## {heading}\n\n```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return block


def test_the_loop_of_ones_own_trains_and_reports_from_the_resumed_epoch(shared_service):
    rates = []
    names = {
        "url": shared_service.url,
        "batches": range(3),
        "resumed_at": 2,
        "train": lambda _, rate: rates.append(rate),
        "evaluate": lambda: 0.5,
    }

    exec(block_of("A loop of your own"), names)

    assert len(rates) == 3 * 3
    with Client(shared_service.url) as client:
        assert [each.epoch for each in client.get_run("mnist-7").history()] == [2, 3, 4]
