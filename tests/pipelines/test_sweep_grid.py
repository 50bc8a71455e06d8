import pytest

from pipelines.failures import UserError
from pipelines.sweep_grid import Axis, read_axes


def refused(*grids: str) -> str:
    with pytest.raises(UserError) as caught:
        read_axes(grids)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("grid", "values"),
    [
        ("a.b=0.2,0.4,0.60", ("0.2", "0.4", "0.60")),
        ("seeds=[0],[1, 2]", ("[0]", "[1, 2]")),
        ("plan.schedule={name: cosine},{name: step, milestones: [0.8, 0.9], gamma: 0.1}",
         ("{name: cosine}", "{name: step, milestones: [0.8, 0.9], gamma: 0.1}")),
        ("a='x, y',z", ("'x, y'", "z")),
        ("plan.lr=1e-3", ("1e-3",)),
        ("a=null, false", ("null", "false")),
    ],
)  # fmt: skip
def test_values_end_at_commas_outside_brackets_and_stay_as_typed(grid: str, values: tuple[str, ...]) -> None:
    (axis,) = read_axes([grid])
    assert axis == Axis(grid.partition("=")[0], values)


def test_grids_keep_their_order() -> None:
    assert [axis.key for axis in read_axes(["b=1", "a=2", "c.d=3"])] == ["b", "a", "c.d"]


def test_what_is_no_grid_is_refused() -> None:
    assert "--grid has 'seeds'; write KEY=VALUE" in refused("seeds")
    assert "--grid has '.a=1'" in refused(".a=1")
    assert "--grid gives a no value" in refused("a=")
    assert "not valid YAML" in refused("a=1,,2")
    assert "not valid YAML" in refused("a=[1")
    assert "not valid YAML" in refused("a=1]")
    assert "a one value twice" in refused("a=1,2,1")
    assert "--grid has a twice" in refused("a=1", "a=2")
