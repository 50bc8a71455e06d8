"""deploy/: the compose file is complete and cautious, and names what exists. tests/services runs what it starts."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from composed import DEPLOY, VARIABLE, compose_document, compose_text, example_variables, service

ROOT = DEPLOY.parent
ONCE = {"setup"}  # services that end
SERVICES = sorted(compose_document()["services"])
PINNED = re.compile(r":[\w.-]*\d[\w.-]*$")  # a tag with a number


@pytest.fixture(scope="module")
def services() -> Any:
    return compose_document()["services"]


def test_the_parts_are_those_of_the_page(services: Any) -> None:
    assert set(services) == {"postgres", "s3", "mlflow", "prefect", "worker", "setup"}
    page = (ROOT / "docs" / "deployment.md").read_text()
    assert [name for name in services if f"`{name}`" not in page] == []


def test_every_variable_is_in_the_example_and_every_one_there_is_used() -> None:
    assert set(VARIABLE.findall(compose_text())) == set(example_variables())
    assert "$" not in VARIABLE.sub("", compose_text()), "another way to write a variable is not checked here"


def test_every_variable_is_explained() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    assert [name for name in example_variables() if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_has_a_fixed_version(services: Any, name: str) -> None:
    assert PINNED.search(services[name]["image"])
    assert not services[name]["image"].endswith(":latest")


@pytest.mark.parametrize("name", SERVICES)
def test_every_server_is_watched_and_started_again(services: Any, name: str) -> None:
    if name in ONCE:
        assert services[name]["restart"] == "no" and services[name]["profiles"]
        return
    assert services[name]["restart"] == "unless-stopped"
    assert services[name]["healthcheck"]["test"][0] == "CMD"
    assert services[name]["healthcheck"]["retries"] > 0


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_this_machines_alone_and_the_database_has_none(services: Any, name: str) -> None:
    ports = services[name].get("ports", [])
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    assert bool(ports) == (name in {"s3", "mlflow", "prefect"})


def test_services_wait_for_what_they_need(services: Any) -> None:
    for name, described in services.items():
        for needed, how in described.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert "healthcheck" in services[needed]


def test_volumes_that_are_named_are_declared_and_files_exist(services: Any) -> None:
    declared = set(compose_document()["volumes"])
    for described in services.values():
        for volume in described.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_file()
            elif not source.startswith("/"):
                assert source in declared


def test_addresses_inside_are_services_and_their_ports(services: Any) -> None:
    listening = {"postgres:5432", "s3:9000", "mlflow:5000", "prefect:4200"}
    for name in services:
        for value in service(name, {}).environment.values():
            found = re.findall(r"(?:@|http://)([a-z]\w*:\d+)", value)
            assert set(found) <= listening
    for part in ("s3", "mlflow", "prefect"):
        assert services[part]["ports"][0].rsplit(":", 1)[1] in {address.split(":")[1] for address in listening}


def test_the_worker_serves_the_pool_of_prefect_yaml(services: Any) -> None:
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    words = services["worker"]["command"]
    assert {entry["work_pool"]["name"] for entry in deployed} == {words[words.index("--pool") + 1]}
    assert "LONGTAIL_ROOT" in (ROOT / "prefect.yaml").read_text()
    assert service("worker", {}).environment["LONGTAIL_ROOT"] == services["worker"]["working_dir"]


def test_nothing_phones_home(services: Any) -> None:
    said = dict(line.split("=", 1) for line in (ROOT / ".env").read_text().splitlines() if "=" in line)
    quiet = {name: value for name, value in said.items() if re.search("ANALYTICS|TELEMETRY|TRACK", name)}
    assert len(quiet) == 4
    for name, described in services.items():
        if described["image"].startswith("longtail:"):
            environment = service(name, {}).environment
            assert {key: environment[key] for key in quiet} == quiet


def test_passwords_are_examples_and_the_file_with_real_ones_is_ignored() -> None:
    assert {value for name, value in example_variables().items() if "PASSWORD" in name} == {
        "change-me",
        "change-me-too",
    }
    asked = ["git", "check-ignore", "--quiet", "deploy/.env"]
    if (ROOT / ".git").exists():
        assert subprocess.run(asked, cwd=ROOT).returncode == 0


def dockerfile() -> list[str]:
    """Return the instructions of the Dockerfile, one a line."""
    joined = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def test_the_image_is_pinned_and_runs_as_a_user() -> None:
    first, *rest = dockerfile()
    assert re.fullmatch(r"FROM python:3\.11\.\d+-slim-\w+", first)
    assert any("--constraint constraints.txt" in line for line in rest)
    users = [line.split()[1] for line in rest if line.startswith("USER ")]
    assert users and "root" not in users and "0" not in users


def test_what_the_image_copies_exists_and_is_let_in() -> None:
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {word for line in dockerfile() if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def has_compose() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0


@pytest.mark.skipif(not has_compose(), reason="docker has no compose plugin here")
def test_compose_itself_takes_the_file(tmp_path: Path) -> None:
    command = ["docker", "compose", "--env-file", str(DEPLOY / "env.example"), "--file", str(DEPLOY / "compose.yaml")]
    checked = subprocess.run([*command, "config", "--quiet"], cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
