"""The repository itself: import order, names, and a graph whose dependencies cover what its stages import."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from longtail.balancers import Balancer
from longtail.data.sources import Source
from longtail.learners import Learner
from longtail.losses import Loss

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "longtail"
UNIONS = {"losses": Loss, "learners": Learner, "balancers": Balancer, "data": Source}
LAYERS = [  # rooms and files on the ground floor; of a room that spans two layers, the later file by its full name
    ["spec", "seeding", "distributed", "markdown", "progress", "git"],
    ["images"],
    ["data", "loading"],
    ["models"],
    ["losses"],
    ["training"],
    ["learners", "features"],
    ["balancers"],
    ["evaluation", "serving"],
    ["plots", "retraining"],
    ["params"],
    ["workspace", "tracking", "report"],
    ["serving.export", "export", "client", "prediction", "stages"],
]
# How a stage runs and who is told, never what it computes: a change here makes no result stale.
PLUMBING = {"params", "workspace", "progress", "stages.job", "spec"}


def members(union: Any) -> list[Any]:
    """List the classes of an annotated union, or of a union of one."""
    inner = get_args(union)[0] if get_args(union) else union
    return list(get_args(inner)) or [inner]


def member_names(package: str) -> list[str]:
    return [get_args(member.model_fields["name"].annotation)[0] for member in members(UNIONS[package])]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules of the package that a file imports, as dotted names below `longtail`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name.removeprefix("longtail.") for name in names if name.startswith("longtail.")}
    return frozenset(name for name in found if file_of(name))


def file_of(module: str) -> Path | None:
    base = PACKAGE / Path(*module.split("."))
    candidates = [base.with_suffix(".py"), base / "__init__.py"]
    return next((candidate for candidate in candidates if candidate.exists()), None)


def layer(module: str) -> int:
    whole = [i for i, names in enumerate(LAYERS) if module in names]
    return whole[0] if whole else next(i for i, names in enumerate(LAYERS) if module.split(".")[0] in names)


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_run_one_way(path: Path) -> None:
    module = module_of(path)
    late = [name for name in imports(path) if layer(name) > layer(module)]
    assert not late, f"{module} imports {late}, which come later in the house"


@pytest.mark.parametrize("package", UNIONS)
def test_members_never_import_each_other(package: str) -> None:
    names = set(member_names(package))
    for name in names:
        path = file_of(f"{package}.{name}")
        assert path, f"{package}/{name}.py must hold the member called {name}"
        siblings = {other.removeprefix(f"{package}.") for other in imports(path)} & (names - {name})
        assert not siblings, f"{package}/{name}.py imports its siblings {siblings}"


@pytest.mark.parametrize("package", UNIONS)
def test_every_member_has_a_test_file(package: str) -> None:
    for name in member_names(package):
        assert (ROOT / "tests" / package / f"test_{name}.py").exists()


def test_only_tracking_knows_mlflow_and_nothing_in_src_knows_prefect_or_dvc() -> None:
    for path in SOURCES:
        found = set(re.findall(r"^\s*(?:import|from) (mlflow|prefect|dvc)\b", path.read_text(), re.MULTILINE))
        allowed = {"mlflow"} if module_of(path).split(".")[0] == "tracking" else set()
        assert found <= allowed, f"{path.relative_to(ROOT)} imports {found}"


def test_no_function_in_the_library_touches_the_global_torch_seed() -> None:
    for path in SOURCES:
        if module_of(path) != "seeding":
            assert "manual_seed" not in path.read_text(), path


# --- params.yaml and dvc.yaml ---------------------------------------------------------------------------------------

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def rows_of(stage: str) -> dict[str, Any]:
    """Rows of a foreach stage, or one nameless row."""
    if "foreach" not in DVC[stage]:
        return {"": {}}
    rows: dict[str, Any] = PARAMS[re.fullmatch(r"\$\{(\w+)\}", DVC[stage]["foreach"])[1]]  # type: ignore[index]
    return rows


def interpolate(text: str, key: str, item: Any) -> str:
    def value(match: re.Match[str]) -> str:
        path = match[1].split(".")
        node: Any = {"key": key, "item": item, **PARAMS}
        for part in path:
            node = node[part]
        return str(node)

    return re.sub(r"\$\{([\w.]+)\}", value, text)


def chosen_members(stage: str, item: Any) -> set[str]:
    """The union members that a row names: the modules of its method."""
    chosen = set()
    if stage == "split":
        chosen.add(f"data.{PARAMS['data']['name']}")
    if stage == "train":
        chosen |= {f"losses.{item['loss']['name']}", f"learners.{item['learner']['name']}"}
    if stage == "finetune":
        chosen.add(f"balancers.{item['balancer']['name']}")
    return chosen


def closure(stage: str, item: Any) -> set[str]:
    """What a stage's row imports, less plumbing, the unions themselves and the members that it did not choose."""
    every = {f"{package}.{name}" for package in UNIONS for name in member_names(package)}
    unions = {"losses", "learners", "balancers", "data.sources"}
    skipped = (every - chosen_members(stage, item)) | unions | PLUMBING
    todo, seen = [f"stages.{stage}", *chosen_members(stage, item)], set()
    while todo:
        module = todo.pop()
        if module in seen or module in skipped or module.split(".")[0] == "tracking":
            continue
        seen.add(module)
        todo += imports(file_of(module))
    return seen


STAGE_ROWS = [(stage, key) for stage in DVC for key in rows_of(stage)]


@pytest.mark.parametrize(("stage", "key"), STAGE_ROWS)
def test_dependencies_cover_what_the_stage_imports(stage: str, key: str) -> None:
    item = rows_of(stage)[key]
    body = DVC[stage].get("do", DVC[stage])
    deps = [ROOT / interpolate(dep, key, item) for dep in body["deps"]]
    imported = [file_of(module) for module in closure(stage, item)]
    # __init__.py files of packages hold no code, except the table of backbones, which models/ covers whole.
    missing = [
        str(path.relative_to(ROOT))
        for path in imported
        if path and path.name != "__init__.py" and not any(path == dep or dep in path.parents for dep in deps)
    ]
    assert not missing, f"{stage}@{key} must depend on {sorted(missing)}"


# Rooms that a stage depends on as wholes: to name their files one by one would follow every move of a helper.
WHOLE_ROOMS = {"images", "loading", "models", "training", "features", "plots"}
# GLAG's distillation follows GraLoss's alpha: the one loss that stage two reads, whatever its balancer.
SHARED_LOSS = {"losses/base.py", "losses/gradual_balanced.py"}
MIXING = {"learners/mixing.py"}  # of four learners; too small for a list of its own


@pytest.mark.parametrize(("stage", "key"), STAGE_ROWS)
def test_no_row_depends_on_code_that_it_cannot_reach(stage: str, key: str) -> None:
    item = rows_of(stage)[key]
    body = DVC[stage].get("do", DVC[stage])
    reached = {file_of(module) for module in closure(stage, item)}
    for dep in body["deps"]:
        path = interpolate(dep, key, item)
        inside = path.removeprefix("src/longtail/")
        if inside == path or inside in WHOLE_ROOMS | SHARED_LOSS | MIXING:
            continue
        # Of all sources together (split depends on the helpers of each, whichever it reads) one row reaches some.
        if stage == "split" and inside.startswith("data/"):
            continue
        assert ROOT / path in reached, f"{stage}@{key} depends on {path}, which it does not import"


PAPERS: dict[str, Callable[[Any], bool]] = {
    "learners/rsg.py": lambda row: row["learner"]["name"] == "rsg",
    "learners/csa.py": lambda row: row["learner"]["name"] == "csa",
    "balancers/ofa.py": lambda row: row["balancer"]["name"] == "ofa",
    "balancers/glag.py": lambda row: row["balancer"]["name"] == "glag",
    "balancers/mislas.py": lambda row: row["balancer"]["name"] == "mislas",
}
ALL_ROWS = yaml.safe_load((ROOT / "benchmarks" / "digits_all.yaml").read_text())


@pytest.mark.parametrize("paper", PAPERS)
def test_editing_a_paper_reruns_its_rows_alone(paper: str) -> None:
    stage, section = ("train", "representations") if paper.startswith("learners") else ("finetune", "methods")
    of_paper = PAPERS[paper]
    assert any(map(of_paper, ALL_ROWS[section].values()))
    for other in DVC:
        deps = DVC[other].get("do", DVC[other])["deps"]
        rows = ALL_ROWS[section] if other == stage else rows_of(other)
        for key, item in rows.items():
            files = [interpolate(dep, key, item) for dep in deps] if other == stage else deps
            touched = any(f"src/longtail/{paper}".startswith(file) for file in files)
            assert touched == (other == stage and of_paper(item)), f"{other}@{key}"


@pytest.mark.parametrize("stage", DVC)
def test_stages_run_their_own_sources(stage: str) -> None:
    body = DVC[stage].get("do", DVC[stage])
    assert body["cmd"].startswith(f"PYTHONPATH=src python -m longtail.stages.{stage}")


def test_every_source_dependency_exists() -> None:
    for stage, key in STAGE_ROWS:
        body = DVC[stage].get("do", DVC[stage])
        for dep in body["deps"]:
            path = interpolate(dep, key, rows_of(stage)[key])
            assert not path.startswith("src/") or (ROOT / path).exists(), f"{stage}@{key} depends on {path}"


HEAVY = ("torch._dynamo", "torchvision", "sklearn", "torchmetrics", "mlflow")  # a second each, and few stages need any


def test_stages_import_what_takes_long_only_where_it_is_used() -> None:
    stages = [path.stem for path in sorted((PACKAGE / "stages").glob("*.py")) if path.stem != "__init__"]
    code = f"""
import importlib, sys
for stage in {stages}:
    importlib.import_module(f"longtail.stages.{{stage}}")
from longtail.training.hardware import eagerly
with eagerly():
    print([name for name in {HEAVY} if name in sys.modules])
"""
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed == "[]\n"
