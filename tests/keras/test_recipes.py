"""docs/keras.md: every block runs as it stands."""

import re
from pathlib import Path

import keras
import pytest

from remotelr.keras import SGD, RemoteLR
from support.keras.training_jobs import data, linear

PAGE = (Path(__file__).parents[2] / "docs" / "keras.md").read_text()
RECIPES = re.findall(r"^## (.+?)$(?:(?!^## ).)*?^```python\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)


# A reader trains for longer than the test.
@pytest.mark.filterwarnings("ignore:.*the schedule takes:remotelr.errors.RemoteLRWarning")
@pytest.mark.parametrize(("title", "block"), RECIPES, ids=[title for title, _ in RECIPES])
def test_a_recipe_runs_as_it_stands(title, block, url, tmp_path):
    x, y = data()
    x_val, y_val = data(1)
    names = {"keras": keras, "RemoteLR": RemoteLR, "SGD": SGD, "url": url, "checkpoints": str(tmp_path)}

    exec(block, {**names, "model": linear(), "x": x, "y": y, "x_val": x_val, "y_val": y_val})


def test_every_block_of_the_page_is_a_recipe():
    assert PAGE.count("```python") == len(RECIPES)
