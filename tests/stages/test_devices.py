"""LONGTAIL_DEVICES: a number, or one sentence; tests/services/test_torchrun.py starts the processes."""

from pathlib import Path

import pytest
import torch

from longtail.params import Params, load_params
from longtail.spec import InputError
from longtail.stages import devices
from longtail.stages.train import check_several

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.mark.parametrize(("text", "number"), [("", 1), ("1", 1), ("3", 3)])
def test_it_is_a_number_and_one_where_it_is_not_set(text: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_DEVICES", text)
    monkeypatch.setenv("LONGTAIL_DEVICE", "cpu")
    assert devices.wanted() == number
    monkeypatch.delenv("LONGTAIL_DEVICES")
    assert devices.wanted() == 1


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "cuda"])
def test_anything_else_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_DEVICES", text)
    with pytest.raises(
        InputError, match=rf"^LONGTAIL_DEVICES is '{text}'; set it to a number of devices, .*unset it\.$"
    ):
        devices.wanted()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_more_gpus_than_there_are_and_one_gpu_by_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_DEVICES", str(torch.cuda.device_count() + 1))
    monkeypatch.setenv("LONGTAIL_DEVICE", "cuda")
    with pytest.raises(InputError, match=r"^LONGTAIL_DEVICES is \d+, but torch sees \d+ GPU"):
        devices.wanted()
    monkeypatch.setenv("LONGTAIL_DEVICE", "cuda:0")
    with pytest.raises(InputError, match=r"^LONGTAIL_DEVICE is cuda:0, one GPU, but LONGTAIL_DEVICES is"):
        devices.wanted()


def test_a_process_of_its_own_is_the_first_and_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert devices.is_first()
    assert not devices.is_launched()
    with devices.ends_with_launcher(), pytest.raises(KeyboardInterrupt):
        raise KeyboardInterrupt


def params(**row: object) -> Params:
    """Return the repository's params, one of whose representations differs."""
    document = load_params(PARAMS).model_dump()
    document["representations"]["ce"] |= row
    return Params.model_validate(document)


def test_the_plain_learner_trains_on_several_devices() -> None:
    check_several(params(), "ce", 2)
    check_several(params(plan={"batch_size": 2}), "ce", 2)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"learner": {"name": "mixup", "alpha": 1.0, "until": 1.0}}, r"representations\.ce\.learner is mixup"),
        ({"plan": {"batch_size": 1}}, r"plan\.batch_size of ce is 1"),
    ],
)
def test_what_several_devices_would_compute_differently_is_refused(row: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=rf"^{said}, but LONGTAIL_DEVICES is 2"):
        check_several(params(**row), "ce", 2)
