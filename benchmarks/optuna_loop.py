"""Optuna's `report` and `should_prune`, as often as they go; runs in the competitors' environment.

rivals/bin/python benchmarks/optuna_loop.py sqlite:///optuna.db 5
"""

import sys
import time

import optuna  # type: ignore[import-not-found]  # it is in the competitors' environment alone


def main() -> None:
    url, seconds = sys.argv[1], float(sys.argv[2])
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=url, pruner=optuna.pruners.MedianPruner(), direction="minimize")
    trial = study.ask()
    began, step = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        trial.report(1.0 / (1 + step), step)
        trial.should_prune()
        step += 1
    print(step / (time.perf_counter() - began))


if __name__ == "__main__":
    main()
