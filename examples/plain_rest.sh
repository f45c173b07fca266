#!/bin/sh
# Plateau from a shell, or from any language that speaks HTTP. The service runs: remotelr serve
# With curl older than 7.76, use --fail: it omits the text of a refusal.
set -eu
run="${REMOTELR_URL:-http://127.0.0.1:8000}/v1/runs/${1:-plain-rest}"
call() { curl --silent --show-error --fail-with-body --request "$1" "$run$2" --header "content-type: application/json" --data "$3"; echo; }

call PUT "" '{"policy": {"type": "reduce_on_plateau", "monitor": "val_loss", "factor": 0.5, "patience": 2}, "initial_learning_rate": 0.1}'
call POST /attempts '{"key": "attempt-1", "epoch": 0}'
call POST /reports '{"epoch": 0, "metrics": {"val_loss": 0.9}}'
call POST /reports '{"epoch": 1, "metrics": {"val_loss": 0.9}}'
call POST /reports '{"epoch": 2, "metrics": {"val_loss": "nan"}}'
call POST /finish '{"status": "completed"}'
