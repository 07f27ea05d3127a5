"""The command line (DESIGN section 10). Exit codes: 0 done, 1 the work failed, 2 wrong input."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from treepo.errors import UserError, WorkError

# Prefect reads these when it is imported; what a user set wins.
_ENVIRONMENT = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Name = Annotated[str, typer.Argument(help="an experiment: params/NAME.yaml")]
RunsDir = Annotated[Path, typer.Option(help="folder of all runs")]
Overrides = Annotated[list[str], typer.Option("--set", help="key=value, e.g. sampling.width=8")]


@app.callback()
def _describe() -> None:
    """TreePO experiments: tree rollouts, segment advantages, every artifact traceable."""


@app.command()
def run(name: Name, overrides: Overrides = [], runs_dir: RunsDir = Path("runs")) -> None:  # noqa: B006
    """Run or resume an experiment."""
    from flows.experiment import experiment
    from flows.summary import show_summary
    from tasks.workspace import Workspace

    _say_logs()
    experiment(name, str(runs_dir), overrides)
    show_summary(Workspace(runs_dir, name))


@app.command()
def step(
    step: Annotated[str, typer.Argument(help="a step, or a stage of dvc.yaml")],
    name: Name,
    iteration: Annotated[int | None, typer.Option(min=0, help="of the loop's steps")] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Make the artifacts of one step, or stage, alone."""
    from flows.single import single_step

    _say_logs()
    single_step(step, name, iteration, runs_dir)


def main() -> None:
    """Entry point: errors become one line and an exit code."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    warnings.filterwarnings("ignore")
    try:
        app()
    except UserError as error:
        _fail(str(error), 2)
    except WorkError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("stopped; run again to go on", 1)


def _fail(message: str, code: int) -> None:
    print(f"treepo: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _say_logs() -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("tasks").setLevel(logging.INFO)


if __name__ == "__main__":
    main()
