#!/bin/sh
# TRL in an environment of its own, beside this script: sh benchmarks/trl/setup.sh
set -eu
cd "$(dirname "$0")"
python3.11 -m venv .venv
.venv/bin/python -m pip install --quiet uv
UV_FIND_LINKS="${PIP_FIND_LINKS:-}" .venv/bin/uv pip install --quiet --python .venv/bin/python -r requirements.txt
