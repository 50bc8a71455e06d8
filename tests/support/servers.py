"""PostgreSQL, an S3 server, MLflow and Prefect, each a context manager: the parts of deploy/compose.yaml."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from composed import DEPLOY, example_variables, service
from running import HOST, Server, answers, as_user

VARIABLES = example_variables()
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": VARIABLES["S3_USER"],
    "AWS_SECRET_ACCESS_KEY": VARIABLES["S3_PASSWORD"],
    "AWS_DEFAULT_REGION": "us-east-1",
}


def unavailable() -> dict[str, str]:
    """Return what is missing here, and why what needs it is skipped: "postgresql", "s3"."""
    missing = {}
    if postgresql_programs() is None:
        missing["postgresql"] = "PostgreSQL's initdb and postgres are not installed (Debian: postgresql)"
    elif find_spec("psycopg2") is None:
        missing["postgresql"] = "psycopg2 is not installed (pip install 'longtail[services]')"
    if shutil.which("moto_server", path=str(Path(sys.executable).parent)) is None:
        missing["s3"] = "moto's S3 server is not installed (pip install 'moto[s3,server]')"
    return missing


def postgresql_programs() -> Path | None:
    """Return the folder of initdb and postgres: Debian's newest, else that of PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))[::-1]
    found = shutil.which("initdb")
    folders += [Path(found).resolve().parent] if found else []
    return next((path for path in folders if (path / "initdb").exists() and (path / "postgres").exists()), None)


class PostgreSQL(Server):
    """PostgreSQL with the databases of deploy/databases.sql; its files are gone when it ends.

    It refuses to run as root: then it runs as the user postgres, in a folder that this user may reach.
    """

    name = "postgresql"
    stop_signal = signal.SIGQUIT  # at once, but its shared memory is given back

    def __init__(self) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="postgresql.")))
        programs = postgresql_programs()
        assert programs is not None, unavailable()
        self.programs = programs
        if os.geteuid() == 0:
            self.user = "postgres"
            shutil.chown(self.folder, self.user, self.user)

    def __enter__(self) -> Self:
        try:
            self._make()
            self.start()
            for statement in filter(None, map(str.strip, (DEPLOY / "databases.sql").read_text().split(";"))):
                self.execute(statement)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        password = self.folder / "password"
        password.write_text(VARIABLES["POSTGRES_PASSWORD"])
        password.chmod(0o644)  # in a folder that is its user's alone
        arguments = ["--username", VARIABLES["POSTGRES_USER"], "--auth=scram-sha-256", "--pwfile", str(password)]
        made = subprocess.run(
            [self.programs / "initdb", "--pgdata", self.folder / "data", "--encoding=UTF8", "--no-sync", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            **as_user(self.user),
        )
        assert made.returncode == 0, made.stdout + made.stderr

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self) -> list[str]:
        """Listen on the port, and on a socket in the folder."""
        settings = {"listen_addresses": HOST, "port": self.port, "unix_socket_directories": self.folder, "fsync": "off"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [str(self.programs / "postgres"), "-D", str(self.folder / "data"), *options]

    def is_ready(self) -> bool:
        """Log in."""
        from psycopg2 import OperationalError  # type: ignore[import-untyped]

        try:
            self.execute("SELECT 1")
        except OperationalError:
            return False
        return True

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement."""
        from psycopg2 import connect

        user, password = VARIABLES["POSTGRES_USER"], VARIABLES["POSTGRES_PASSWORD"]
        session = connect(host=HOST, port=self.port, user=user, password=password, dbname=database)
        session.autocommit = True
        with session.cursor() as cursor:
            cursor.execute(statement)
        session.close()


class S3(Server):
    """An S3 server that keeps everything in memory."""

    name = "s3"

    def command(self) -> list[str]:
        """Run moto's."""
        return [str(Path(sys.executable).with_name("moto_server")), "--host", HOST, "--port", str(self.port)]

    def is_ready(self) -> bool:
        """List the buckets."""
        return answers(self.address)

    def client(self) -> Any:
        """Return boto3's client of it."""
        import boto3  # type: ignore[import-untyped]

        keys = {"aws_access_key_id": VARIABLES["S3_USER"], "aws_secret_access_key": VARIABLES["S3_PASSWORD"]}
        return boto3.client("s3", endpoint_url=self.address, region_name="us-east-1", **keys)

    def keys(self, bucket: str) -> dict[str, int]:
        """Return the sizes of all objects of a bucket by key."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", ())}


class Composed(Server):
    """A service of deploy/compose.yaml: the same command and variables, at addresses of this machine."""

    inside: str  # where the file has it listen
    health: str

    def __init__(self, folder: Path, postgresql: PostgreSQL, s3: S3 | None = None) -> None:
        super().__init__(folder)
        elsewhere = {"s3:9000": f"{HOST}:{s3.port}"} if s3 else {}
        own = {"0.0.0.0": HOST, self.inside: str(self.port)}
        self.composed = service(self.name, {"postgres:5432": f"{HOST}:{postgresql.port}", **elsewhere, **own})

    def command(self) -> list[str]:
        """Return the file's command, run by this Python."""
        return [sys.executable, "-m", *self.composed.command]

    def environment(self) -> Mapping[str, str]:
        """Return the file's variables."""
        return self.composed.environment

    def is_ready(self) -> bool:
        """Ask as the file's health check does."""
        return answers(self.address + self.health)


class MLflow(Composed):
    """MLflow's server on PostgreSQL, its artifacts on S3."""

    name, inside, health = "mlflow", "5000", "/health"

    def command(self) -> list[str]:
        """One worker is enough here, and starts sooner."""
        *words, workers = super().command()
        assert words[-1] == "--workers" and int(workers) > 1
        return [*words, "1"]


class Prefect(Composed):
    """Prefect's server on PostgreSQL."""

    name, inside, health = "prefect", "4200", "/api/health"


class LocalPrefect(Server):
    """`prefect server start` on an sqlite file of its own."""

    name = "prefect"

    def command(self) -> list[str]:
        """Run the program that users run."""
        return [str(Path(sys.executable).with_name("prefect")), "server", "start"]

    def environment(self) -> Mapping[str, str]:
        """Keep its state in the folder. The port by --port would not reach its pages, which would ask port 4200."""
        return {"PREFECT_HOME": str(self.folder / "home"), "PREFECT_SERVER_API_PORT": str(self.port)}

    def is_ready(self) -> bool:
        """Ask its health check."""
        return answers(f"{self.address}/api/health")


class LocalMLflow(Server):
    """`mlflow ui` on a repository's results, as `make ui` starts it."""

    name = "mlflow"

    def command(self) -> list[str]:
        """Run the program that users run."""
        results = f"sqlite:///{self.folder}/mlflow.db"
        words = ["ui", "--backend-store-uri", results, "--host", HOST, "--port", str(self.port), "--workers", "1"]
        return [str(Path(sys.executable).with_name("mlflow")), *words]

    def environment(self) -> Mapping[str, str]:
        """Run no jobs of its own."""
        return {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

    def is_ready(self) -> bool:
        """Ask its health check."""
        return answers(f"{self.address}/health")
