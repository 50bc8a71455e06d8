"""Retrain on a schedule from this machine: the deployment retrain/nightly, run by this process until it is stopped.

    prefect server start                        # once, somewhere
    export PREFECT_API_URL=http://127.0.0.1:4200/api
    python -m pipelines.serve --cron "0 3 * * *" [--timezone Europe/Berlin] [--data FOLDER] [--stage-timeout MINUTES]

For several machines, deploy prefect.yaml instead: then workers of a work pool run it. Either way one retraining runs at
a time and a second one waits its turn.
"""

import argparse
import sys
from pathlib import Path
from zoneinfo import available_timezones

import prefect
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL
from pydantic import ValidationError

from pipelines.failures import PipelineError, UserError
from pipelines.nightly import plan_night
from pipelines.retrain import retrain

ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)


def deployment(
    root: Path, name: str, cron: str, timezone: str, data: str | None, stage_timeout_minutes: float | None
) -> RunnerDeployment:
    """Describe what is served.

    Raises:
        UserError: the cron string or the time zone is none, or params.yaml has nothing to retrain.
    """
    if timezone not in available_timezones():
        raise UserError(f"--timezone is '{timezone}', which is no time zone. Write one such as Europe/Berlin.")
    try:
        CronSchedule(cron=cron, timezone=timezone)  # which checks the string
    except ValidationError:
        raise UserError(f"--cron is '{cron}', which is no cron string. Write one such as \"0 3 * * *\".") from None
    night = plan_night(root, data)
    made = retrain.to_deployment(
        name,
        schedule=Cron(cron, timezone=timezone),
        concurrency_limit=ONE_AT_A_TIME,
        parameters={"root": str(root), "data": data, "stage_timeout_minutes": stage_timeout_minutes},
        description=f"Retrains {night.retraining.name} ({night.retraining.method}) on new images.",
    )
    assert isinstance(made, RunnerDeployment)
    return made


def check_server(name: str) -> None:
    """Refuse a server that does not answer, and a deployment that workers run already: it would have two schedules.

    Raises:
        UserError: as said.
    """
    address = PREFECT_API_URL.value()
    if not address:
        raise UserError(
            "PREFECT_API_URL is not set, so no schedule would fire. "
            "Run `prefect server start`, then set it to http://127.0.0.1:4200/api."
        )
    try:
        with get_client(sync_client=True) as client:
            client.hello().raise_for_status()
            existing = client.read_deployment_by_name(f"{retrain.name}/{name}")
    except ObjectNotFound:
        return
    except Exception:
        raise UserError(f"PREFECT_API_URL is {address}, but no Prefect server answers there. Start it.") from None
    if existing.work_pool_name:
        raise UserError(
            f"Deployment {retrain.name}/{name} is run by the work pool {existing.work_pool_name} already, so it would "
            f"have two schedules. Delete it (prefect deployment delete {retrain.name}/{name}) or give another --name."
        )


def main() -> int:
    """Serve the deployment until the process is stopped, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.serve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cron", required=True, action="append", help='when, such as "0 3 * * *"')
    parser.add_argument("--timezone", default="UTC", help="of the cron string")
    parser.add_argument("--name", default="nightly", help="of the deployment")
    parser.add_argument("--data", metavar="FOLDER", help="images instead of those of data.path")
    parser.add_argument("--stage-timeout", type=float, metavar="MINUTES", help="stop a stage that takes longer")
    said = parser.parse_args()
    try:
        if len(said.cron) > 1:
            raise UserError(f"--cron was given {len(said.cron)} times, but a deployment has one schedule. Give one.")
        made = deployment(Path.cwd(), said.name, said.cron[0], said.timezone, said.data, said.stage_timeout)
        check_server(said.name)
    except PipelineError as failure:
        print(failure, file=sys.stderr)
        return failure.exit_code
    prefect.serve(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
