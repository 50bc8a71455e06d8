"""What a row of params.yaml can say, and how we answer when it says something else."""

from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, model_validator


class InputError(ValueError):
    """Something a user can mend. The message names the parameter or file, and the remedy; stages exit with code 2."""


def no_number(truth: bool) -> str:
    """Return why true and false, which PyYAML also reads from yes, no, on and off, are refused for a number."""
    return f"takes a number, not {str(truth).lower()}"


class Spec(BaseModel):
    """A frozen, validated mapping from params.yaml.

    Fields have no defaults: every tunable number stands in params.yaml, where `dvc exp run -S` can reach it.
    Numbers written as strings ("1e-5", which PyYAML does not read as a float) are accepted as numbers; true and false
    (which PyYAML also reads from yes, no, on and off) are not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, row: Any) -> Any:
        for key, field in cls.model_fields.items():
            kinds = {field.annotation, *get_args(field.annotation)}
            value = row.get(key) if isinstance(row, dict) else None
            if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
                raise ValueError(f"{key} {no_number(value)}")
        return row


class Member(Spec):
    """A member of a union of methods, and what it needs of the rest of its row; most need nothing.

    Attributes:
        needs_classifier: the kind of network.classifier without which the formula has no meaning: margins on cosines,
            class activation maps of a linear layer.
    """

    needs_classifier: ClassVar[Literal["linear", "cosine"] | None] = None
