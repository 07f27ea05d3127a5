"""The command line. Exit codes: 0 done, 1 the work failed, 2 wrong input.

SIGTERM lets a run finish the step under way and end with 0: run again to go on.
"""

from __future__ import annotations

import errno
import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.environment import prepare
from treepo.errors import Stopped, UserError, WorkError

if TYPE_CHECKING:
    from treepo.loading import Run

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Name = Annotated[str, typer.Argument(help="an experiment: params/NAME.yaml")]
RunsDir = Annotated[Path, typer.Option(help="folder of all runs")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, e.g. sampling.width=8")
]

# What is wrong with a path that a user gave, wherever it is first looked at.
PATH_ERRORS = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP}


@app.callback()
def _describe() -> None:
    """TreePO experiments: tree rollouts, segment advantages, every artifact traceable."""


@app.command()
def run(name: Name, overrides: Overrides = None, runs_dir: RunsDir = Path("runs")) -> None:
    """Run or resume an experiment."""
    from treepo.params import ExperimentParams

    _check(ExperimentParams, name, overrides)

    from flows.experiment import experiment
    from flows.launch import launch
    from flows.summary import show_summary
    from tasks.workspace import Workspace

    _say_logs()
    launch(experiment, name, str(runs_dir), overrides)
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


@app.command()
def advantage(
    forest: Annotated[Path, typer.Option(help="forest.parquet")],
    scores: Annotated[Path, typer.Option(help="scores.parquet")],
    out: Annotated[Path, typer.Option(help="where advantages.parquet goes")],
    overrides: Overrides = None,
) -> None:
    """Compute advantages of a forest from its scores."""
    from flows import tools

    tools.advantage(forest, scores, out, overrides or ())


@app.command()
def score(
    forest: Annotated[Path, typer.Option(help="forest.parquet")],
    data: Annotated[Path, typer.Option(help="problems with prompt_id and answer (parquet)")],
    out: Annotated[Path, typer.Option(help="where scores.parquet goes")],
    tokenizer: Annotated[Path | None, typer.Option(help="policy folder, for decoding")] = None,
    overrides: Overrides = None,
) -> None:
    """Verify every response of a forest."""
    from flows import tools

    tools.score(forest, data, out, tokenizer, overrides or ())


@app.command()
def verify(
    pairs: Annotated[Path, typer.Option(help='a {"gold", "response"} a line')],
    out: Annotated[Path, typer.Option(help="the same lines with verdict and reason")],
    overrides: Overrides = None,
) -> None:
    """Judge responses against gold answers."""
    from flows import tools

    tools.verify(pairs, out, overrides or ())


@app.command()
def reproduce(
    path: Annotated[Path, typer.Argument(help="an artifact of an experiment")],
    chain: Annotated[bool, typer.Option("--chain", help="make its inputs again too")] = False,
) -> None:
    """Make one artifact again from its lineage and compare.

    This imports the plugins and functions that the lineage names: it runs their code.
    """
    from tasks.reproduce import reproduce as make_again

    _say_logs()
    print(make_again(path, chain))


@app.command()
def lineage(path: Annotated[Path, typer.Argument(help="an artifact, or a part of one")]) -> None:
    """Print what an artifact was made from, as a tree."""
    from flows.ancestry import show_lineage

    show_lineage(path)


@app.command()
def diff(
    run_a: Annotated[str, typer.Argument(help="a run's name or folder")],
    run_b: Annotated[str, typer.Argument(help="another's")],
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Say how two runs differ, and where first; exit code 1 where they do."""
    from flows.ancestry import show_difference

    if show_difference(run_a, run_b, runs_dir):
        raise typer.Exit(1)


@app.command()
def gc(
    name: Annotated[
        str | None, typer.Argument(help="a run; ablations/NAME: all of its runs")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="every run")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Remove policies that checkpoints.keep_every and keep_last let go, also from DVC's cache."""
    if (name is None) != everything:
        raise UserError("gc: give a run's name, or --all")

    from flows.collect import collect

    _say_logs()
    collect(name, runs_dir, dry_run)


@app.command()
def params(
    name: Annotated[
        str | None, typer.Argument(help="NAME, evaluations/ or efficiency/NAME")
    ] = None,
) -> None:
    """Print every parameter: value, unit, meaning."""
    from flows.listing import show_params

    show_params(name)


@app.command()
def report(
    name: Name,
    runs_dir: RunsDir = Path("runs"),
    follow: Annotated[bool, typer.Option("--follow", help="while the run goes on")] = False,
) -> None:
    """Make the report of an experiment from its artifacts."""
    if follow:
        from flows.follow import follow as follow_run
        from tasks.workspace import Workspace

        follow_run(Workspace(runs_dir, name))
        return
    from flows.single import single_step

    single_step("report", name, None, runs_dir)


@app.command()
def evaluate(
    name: Annotated[str, typer.Argument(help="an evaluation: params/evaluations/NAME.yaml")],
    against: Annotated[str | None, typer.Option(help="another evaluation, to compare with")] = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Run or resume an evaluation: a policy on benchmarks."""
    from treepo.params import BenchmarkRunParams

    params = _check(BenchmarkRunParams, name, overrides)

    from tasks.run_evaluation import EVALUATION, steps_of

    # A policy that is not there is told before Prefect starts.
    steps_of(params, EVALUATION.workspace(runs_dir, name), against)

    from flows.evaluation import evaluation
    from flows.launch import launch

    _say_logs()
    launch(evaluation, name, str(runs_dir), overrides, against)


@app.command()
def efficiency(
    name: Annotated[str, typer.Argument(help="an experiment: params/efficiency/NAME.yaml")],
    overrides: Overrides = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Run or resume a measurement of speed: ways of sampling, side by side."""
    from treepo.params import EfficiencyParams

    params = _check(EfficiencyParams, name, overrides)

    from tasks.run_efficiency import EFFICIENCY, steps_of

    # As for evaluations.
    steps_of(params, EFFICIENCY.workspace(runs_dir, name))

    from flows.efficiency import efficiency as measure
    from flows.launch import launch

    _say_logs()
    launch(measure, name, str(runs_dir), overrides)


@app.command()
def ablate(
    name: Annotated[
        str, typer.Argument(help="an ablation: params/ablations/NAME.yaml; NAME-SIZE: in that size")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only print the plan")] = False,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Run or resume the variants of an experiment with several seeds, and compare them."""
    from treepo.ablation.plan import load_plan

    load_plan(name)

    from flows.ablation import ablation
    from flows.ablation_tables import show_plan
    from flows.launch import launch

    if dry_run:
        show_plan(name)
        return
    _say_logs()
    launch(ablation, name, str(runs_dir))


@app.command()
def dashboard(
    runs_dir: RunsDir = Path("runs"),
    prefect_port: Annotated[int, typer.Option(help="of the Prefect page")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="of the MLflow page")] = 5000,
) -> None:
    """Serve the Prefect and MLflow pages on this machine, until interrupted."""
    from flows.dashboard import serve

    serve(runs_dir, prefect_port, mlflow_port)


@app.command()
def deploy(
    file: Annotated[Path, typer.Option(help="the deployments")] = Path("prefect.yaml"),
    limit: Annotated[int, typer.Option(min=1, help="runs at a time in a work pool")] = 1,
) -> None:
    """Register the deployments of prefect.yaml: schedules, work pools, the pick-up of dead runs."""
    from flows.deploy import deploy as register

    register(file, limit)


def _check(model: type[Run], name: str, overrides: list[str] | None) -> Run:
    """A mistake in the parameters shows here, before the long imports and the server's start."""
    from treepo.loading import file_of, load

    return load(model, file_of(model, name), overrides or ())


def main() -> None:
    """Entry point: errors become one line and an exit code."""
    try:
        _main()
    except SystemExit as end:
        if "flows.launch" in sys.modules:  # imported by the commands that call flows
            from flows.launch import leave

            leave(end.code if isinstance(end.code, int) else 0)
        raise


def _main() -> None:
    prepare()
    warnings.filterwarnings("ignore")
    try:
        app()
    except UserError as error:
        _fail(str(error), 2)
    except WorkError as error:
        _fail(str(error), 1)
    except OSError as error:
        if error.errno not in PATH_ERRORS or error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}", 2)
    except Stopped:
        print("treepo: stopped; run again to go on")
    except KeyboardInterrupt:
        _fail("stopped; run again to go on", 1)


def _fail(message: str, code: int) -> None:
    print(f"treepo: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


class _Said(logging.Handler):
    """To the standard error of the moment, which a progress bar puts its own in the place of."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _say_logs() -> None:
    """On these loggers, as Prefect sets up the root anew when it starts a flow."""
    said = _Said()
    for name, level in (("tasks", logging.INFO), ("treepo", logging.WARNING)):
        logging.getLogger(name).addHandler(said)
        logging.getLogger(name).setLevel(level)


if __name__ == "__main__":
    main()
