"""params.yaml as one typed, frozen value; `python -m longtail.params [FILE]` validates it whole."""

import sys
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from longtail.balancers import Balancer
from longtail.data.sources import Source
from longtail.evaluation import EvaluationSpec, Metric
from longtail.features.bank import ExtractSpec
from longtail.learners import Learner
from longtail.loading.sampling import Balanced, Sampler
from longtail.losses import Loss
from longtail.losses.base import LossSpec
from longtail.models import NetworkSpec
from longtail.retraining.settings import Retraining
from longtail.spec import InputError, Member, Spec
from longtail.training.objective import Reweighting
from longtail.training.plans import Plan

RowName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]  # becomes a stage name, a folder and a table row
Fraction = Annotated[float, Field(ge=0, le=1)]
S = TypeVar("S", bound=Spec)
Overrides = dict[str, Any]  # keys of `network` or `plan` that a row changes; checked once merged


class Representation(Spec):
    """A stage-one row: one way to learn features, shared by every method that names it.

    Args:
        start_from: `data/split` for fresh weights, or `models/<row>` for the weights of another row (same seed).
        network, plan: keys that differ from the top-level `network` and `plan`.
    """

    start_from: str
    loss: Loss
    learner: Learner
    samplers: tuple[Sampler, ...] = Field(min_length=1)
    reweighting: Reweighting | None
    network: Overrides
    plan: Overrides


class Method(Spec):
    """A stage-two row, a line of the leaderboard: a balancer on a representation."""

    representation: str
    balancer: Balancer


class Params(Spec):
    """Every number of every run.

    Args:
        published: method -> metric of the leaderboard -> fraction in [0, 1], to stand beside ours; {} for none.
        retrain: the nightly model, or null: only retraining needs it.
    """

    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    data: Source
    network: NetworkSpec
    plan: Plan
    extract: ExtractSpec
    evaluation: EvaluationSpec
    representations: dict[RowName, Representation] = Field(min_length=1)
    methods: dict[RowName, Method] = Field(min_length=1)
    published: dict[RowName, dict[Metric, Fraction]]
    retrain: Retraining | None

    @model_validator(mode="after")
    def _rows_fit_together(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds lists a number twice: {list(self.seeds)}. Give each run its own seed.")
        for name, row in self.representations.items():
            self.network_of(name)
            self.plan_of(name)
            self._check_start(name, row.start_from)
            self._check_learner(name, row)
            self._check_classifier(f"representations.{name}.loss", row.loss, name)
            self._check_scale(name, row.loss)
            self._check_classifier(f"representations.{name}.learner", row.learner, name)
        for name, method in self.methods.items():
            _check_choice(f"methods.{name}.representation", method.representation, self.representations)
            self._check_validation(name, method)
            self._check_classifier(f"methods.{name}.balancer", method.balancer, method.representation)
        if self.retrain:
            _check_choice("retrain.method", self.retrain.method, self.methods)
        for name in self.published:
            _check_choice("A row of published", name, self.methods)
        return self

    def _check_classifier(self, path: str, member: Member, representation: str) -> None:
        kind = self.network_of(representation).classifier
        if member.needs_classifier not in (None, kind):
            raise ValueError(
                f"{path} needs a {member.needs_classifier} classifier, but that of {representation} is {kind}. "
                f"Write representations.{representation}.network: {{classifier: {member.needs_classifier}}}."
            )

    def _check_scale(self, name: str, loss: LossSpec) -> None:
        scale = self.network_of(name).scale
        if loss.logit_scale != 1 and scale != 1:
            raise ValueError(
                f"representations.{name}.loss multiplies the cosines by {loss.logit_scale:g}, and the network's scale "
                f"{scale:g} would multiply them again. Write representations.{name}.network: {{scale: 1.0}}."
            )

    def _check_learner(self, name: str, row: Representation) -> None:
        learner, path = row.learner, f"representations.{name}"
        if len(row.samplers) != learner.batches:
            raise ValueError(
                f"{path}.samplers lists {len(row.samplers)}, but learner {row.learner.name} takes {learner.batches}: "
                "one batch of each in every step. List as many."
            )
        lengths = [one.epoch if isinstance(one, Balanced) else "images" for one in row.samplers]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"{path}.samplers have epochs of different lengths ({', '.join(lengths)}), but every step has one "
                "batch of each. Write the same epoch for all of them."
            )
        if learner.needs_start and row.start_from == "data/split":
            raise ValueError(
                f"{path}.start_from is data/split, but learner {row.learner.name} builds on a trained network. "
                "Write models/<row> of a plain representation."
            )

    def _check_validation(self, name: str, method: Method) -> None:
        remedy = method.balancer.without_validation()
        if remedy and not self.data.validation.per_class:
            raise ValueError(
                f"methods.{name}.balancer ({method.balancer.name}) adapts to validation accuracy, but "
                f"data.validation.per_class is 0. Set it to 20, or methods.{name}.balancer.{remedy}."
            )

    def _check_start(self, name: str, start_from: str) -> None:
        others = {f"models/{other}" for other in self.representations if other != name}
        _check_choice(f"representations.{name}.start_from", start_from, ["data/split", *sorted(others)])
        if start_from != "data/split":
            self._check_same_shape(name, start_from.removeprefix("models/"))

    def _check_same_shape(self, name: str, start: str) -> None:
        ours, theirs = self.network_of(name), self.network_of(start)
        for key in ("backbone", "classifier"):
            mine, other = getattr(ours, key), getattr(theirs, key)
            if mine != other:
                raise ValueError(
                    f"representations.{name}.start_from takes the weights of {start}, whose {key} is {other}, for a "
                    f"network whose {key} is {mine}. Start from a row with the same network."
                )

    def lineage(self, representation: str) -> tuple[str, ...]:
        """Return a representation and those whose weights it starts from, itself first."""
        rows: list[str] = []
        while representation in self.representations and representation not in rows:
            rows.append(representation)
            representation = self.representations[representation].start_from.removeprefix("models/")
        return tuple(rows)

    def network_of(self, representation: str) -> NetworkSpec:
        """Return `network` with the row's own keys merged in."""
        row = self.representations[representation]
        return _merged(self.network, row.network, f"representations.{representation}.network")

    def plan_of(self, representation: str) -> Plan:
        """Return `plan` with the row's own keys merged in."""
        row = self.representations[representation]
        return _merged(self.plan, row.plan, f"representations.{representation}.plan")


def _check_choice(path: str, value: str, choices: Any) -> None:
    if value not in choices:
        raise ValueError(f"{path} is '{value}'; choose one of {', '.join(choices)}.")


def _merged(base: S, overrides: Overrides, path: str) -> S:
    merged = _merge(base.model_dump(), overrides)
    try:
        return type(base).model_validate(merged)
    except ValidationError as error:
        raise ValueError(_sentences(error, merged, path)) from None


def _merge(base: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """Merge key by key; a mapping with a `name` is one choice and is replaced whole."""
    merged = dict(base)
    for key, value in overrides.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict) and "name" not in value
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and validate a params file.

    Raises:
        InputError: one sentence per mistake: its path in the file, what is wrong, what came.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Run from the repository's root, or name the file.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {_sentences(error, content)}") from None


def _sentences(error: ValidationError, content: Any, prefix: str = "") -> str:
    details = [detail for detail in error.errors(include_url=False) if not _follows(detail)]
    return "\n".join(_sentence(detail, content, prefix) for detail in details)


def _follows(detail: Any) -> bool:
    """Return whether a list counts as too short only because its items are refused, each in a sentence of its own."""
    return bool(detail["type"] == "too_short" and detail["input"])


def _sentence(detail: Any, content: Any, prefix: str) -> str:
    path = ".".join(filter(None, [prefix, *_path(detail["loc"], content)]))
    message = detail["msg"].removeprefix("Value error, ").rstrip(".")
    if detail["type"] == "extra_forbidden":
        return f"{path} is not a known key. Remove it or correct its spelling."
    if detail["type"] == "union_tag_invalid":
        context = detail["ctx"]
        choices = context["expected_tags"].replace("'", "")
        return f"{path}.name is '{context['tag']}'; choose one of {choices}."
    if detail["type"] == "missing":
        return f"{path} is missing. Write it; params.yaml names every key."
    if detail["type"] == "value_error":  # our own sentences: those of a row name their path themselves
        return f"{path}: {message}." if path else f"{message}."
    return f"{path}: {message[0].lower()}{message[1:]}, but it is {detail['input']!r}."


def _path(location: tuple[int | str, ...], content: Any) -> list[str]:
    """Keep the part of a pydantic location that stands in the file (it also names union members)."""
    path: list[str] = []
    for i, part in enumerate(location):
        is_index = isinstance(content, list) and isinstance(part, int) and part < len(content)
        is_key = isinstance(content, dict) and part in content
        if is_index or is_key:
            content = content[part]
        elif i < len(location) - 1 or part == "[key]":
            continue
        path.append(str(part))
    return path


def main() -> None:
    """Validate a params file; exit code 2 and one sentence per mistake if it does not hold."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("params.yaml")
    try:
        params = load_params(path)
    except InputError as error:
        sys.exit(_refuse(error))
    counted = [_counted(len(getattr(params, name)), name) for name in ("representations", "methods", "seeds")]
    print(f"{path} is valid: {params.data.name}, {', '.join(counted)}.")


def _counted(number: int, plural: str) -> str:
    return f"{number} {plural if number != 1 else plural.removesuffix('s')}"


def _refuse(error: InputError) -> int:
    print(error, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
