"""The schedule cases that the real libraries have answered; `golden/README.md` has their format."""

import json
from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "rules" / "golden"
CASES = [case for file in sorted(GOLDEN.glob("schedules_*.json")) for case in json.loads(file.read_text())]
EVALUATED = [case for case in CASES if case["spec"] is not None]

# One document of each type of node.
EXAMPLES = {case["spec"]["type"]: case["spec"] for case in EVALUATED} | {
    "reduce_on_plateau": {"type": "reduce_on_plateau"},
    "greedy": {"type": "greedy"},
    "lr_range_test": {"type": "lr_range_test"},
    "expression": {"type": "expression", "expression": "0.1 / (1 + epoch)"},
    "extended": {"type": "extended", "schedule": {"type": "constant", "learning_rate": 0.1}, "at": 5.0},
}
