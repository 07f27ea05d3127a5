"""`treepo deploy`: what prefect.yaml lists, registered at a Prefect server.

Reads the part of Prefect's format that the project uses, so that one command also makes the work
pools, with their limits, and the automations that pick up dead runs (`flows.pick_up`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import httpx
import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import (
    MissingFlowError,
    ObjectNotFound,
    ParameterTypeError,
    PrefectHTTPStatusError,
)
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import get_current_settings
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.environment import ENVIRONMENT, HEARTBEAT
from flows.pick_up import HEARTBEAT_SECONDS, automations
from flows.progress import console
from tasks.addresses import without_password
from treepo.errors import UserError, WorkError
from treepo.loading import parse


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScheduleEntry(_Section):
    """When a deployment runs; a slug keeps a schedule's identity when its cron changes."""

    cron: str
    timezone: str = "UTC"
    slug: str | None = None
    active: bool = True
    parameters: dict[str, Any] = Field(default_factory=dict)

    def create(self) -> DeploymentScheduleCreate:
        """As the server takes it."""
        return DeploymentScheduleCreate(
            schedule=CronSchedule(cron=self.cron, timezone=self.timezone),
            active=self.active,
            slug=self.slug,
            parameters=self.parameters,
        )


class LimitEntry(_Section):
    """Runs of one deployment at a time, and what becomes of one too many.

    grace_period_seconds: how long a run may take to start before its place is given away.
    """

    limit: int = Field(1, ge=1)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"
    grace_period_seconds: int = Field(300, ge=60)


class PoolEntry(_Section):
    """The work pool, and what its infrastructure is told."""

    name: str = "treepo"
    job_variables: dict[str, Any] = Field(default_factory=dict)


class DeploymentEntry(_Section):
    """One deployment. entrypoint: package.module.flow."""

    name: str
    entrypoint: str
    description: str | None = None
    tags: list[str] = Field(default_factory=list)
    parameters: dict[str, Any] = Field(default_factory=dict)
    schedules: list[ScheduleEntry] = Field(default_factory=list)
    concurrency_limit: LimitEntry = LimitEntry()
    work_pool: PoolEntry = PoolEntry()


class DeploymentsFile(BaseModel):
    """prefect.yaml; other keys are Prefect's own."""

    deployments: list[DeploymentEntry]


def deploy(file: Path, limit: int) -> None:
    """Register all deployments; `limit`: runs at a time in each work pool.

    Raises UserError where the file or the server's address is wrong or missing, WorkError where
    the server does not answer.
    """
    entries = read_deployments(file)
    flows = [_flow(file, entry) for entry in entries]
    url = get_current_settings().api.url
    if not url:
        raise UserError(
            "no Prefect server is named; start one (treepo dashboard) and set "
            "PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    with _answering(without_password(url)), get_client(sync_client=True) as client:
        for name in dict.fromkeys(entry.work_pool.name for entry in entries):
            _make_pool(client, name, limit)
        ids = [_register(client, entry, flow) for entry, flow in zip(entries, flows, strict=True)]
        _automate(client, ids)
    pools = dict.fromkeys(entry.work_pool.name for entry in entries)
    for pool in pools:
        console.print(f"start a worker: prefect worker start --pool {pool}", soft_wrap=True)


def read_deployments(file: Path) -> list[DeploymentEntry]:
    """What the file lists. Raises UserError that names the file and the key."""
    try:
        content = parse(file.read_text(encoding="utf-8"))
        return DeploymentsFile.model_validate(content).deployments
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: is not YAML ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{file}: {key or 'the file'}: {first['msg']}") from None


def _flow(file: Path, entry: DeploymentEntry) -> Flow[..., Any]:
    """The flow that an entry names, once its parameters are known to fit it."""
    place = f"{file}: deployment {entry.name}"
    try:
        flow: Flow[..., Any] = load_flow_from_entrypoint(entry.entrypoint)
    except (MissingFlowError, ImportError, ValueError) as error:
        raise UserError(f"{place}: entrypoint {entry.entrypoint}: {error}") from None
    given = [entry.parameters, *(schedule.parameters for schedule in entry.schedules)]
    known = parameter_schema(flow).properties
    unknown = {key for values in given for key in values} - known.keys()
    if unknown:
        raise UserError(
            f"{place}: parameters: flow {flow.name} has no {min(unknown)}; "
            f"it has {', '.join(known)}"
        )
    try:
        flow.validate_parameters(entry.parameters)
        for schedule in entry.schedules:
            schedule.create()
    except (ParameterTypeError, TypeError, ValueError) as error:
        raise UserError(f"{place}: {error}") from None
    return flow


@contextmanager
def _answering(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise WorkError(f"the Prefect server at {url} does not answer ({error})") from None
    except PrefectHTTPStatusError as error:
        raise WorkError(f"the Prefect server at {url} refused: {error.response.text}") from None


def _make_pool(client: SyncPrefectClient, name: str, limit: int) -> None:
    """Make a process pool, or set the limit of a pool that exists, whatever its type."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(
                name=name, type="process", base_job_template=template, concurrency_limit=limit
            )
        )
    else:
        client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))
    console.print(f"work pool {name}: {limit} at a time", soft_wrap=True)


def _register(client: SyncPrefectClient, entry: DeploymentEntry, flow: Flow[..., Any]) -> UUID:
    """Create or update one deployment."""
    process = client.read_work_pool(entry.work_pool.name).type == "process"
    alone = entry.concurrency_limit
    options = ConcurrencyOptions(
        collision_strategy=ConcurrencyLimitStrategy(alone.collision_strategy),
        grace_period_seconds=alone.grace_period_seconds,
    )
    deployment = client.create_deployment(
        flow_id=client.create_flow(flow),
        name=entry.name,
        description=entry.description or flow.description,
        entrypoint=entry.entrypoint,
        tags=entry.tags,
        parameters=entry.parameters,
        parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
        enforce_parameter_schema=True,
        schedules=[schedule.create() for schedule in entry.schedules],
        concurrency_limit=alone.limit,
        concurrency_options=options,
        work_pool_name=entry.work_pool.name,
        job_variables=_job_variables(entry.work_pool, process),
    )
    times = [f"{s.cron} {s.timezone}" for s in entry.schedules if s.active]
    when = ", ".join(times) or "when asked"
    console.print(f"deployment {flow.name}/{entry.name}: {when}", soft_wrap=True)
    return deployment


def _job_variables(pool: PoolEntry, process: bool) -> dict[str, Any]:
    """What a run's process is told: this folder, so that relative paths hold, and heartbeats."""
    heartbeat = {HEARTBEAT: str(HEARTBEAT_SECONDS)}
    given = pool.job_variables
    env = {**ENVIRONMENT, **heartbeat, **given.get("env", {})}
    folder = {"working_dir": str(Path.cwd())} if process else {}
    return {**folder, **given, "env": env}


def _automate(client: SyncPrefectClient, deployments: Sequence[UUID]) -> None:
    """Put the automations in the place of those of an earlier call."""
    for automation in automations(deployments):
        for old in client.read_automations_by_name(automation.name):
            client.delete_automation(old.id)
        client.create_automation(automation)
        console.print(f"automation {automation.name}", soft_wrap=True)
