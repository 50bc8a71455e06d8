"""Device, precision and compilation follow from the plan and the machine."""

from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

import tiny
from longtail.params import load_params
from longtail.spec import InputError
from longtail.training import hardware
from longtail.training.plans import Plan

PLAN = load_params(Path(__file__).parents[2] / "params.yaml").plan
CPU = torch.device("cpu")


def plan(**changes: object) -> Plan:
    return Plan.model_validate({**PLAN.model_dump(), **changes})


def test_the_device_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_DEVICE", "cpu")
    assert hardware.select_device() == CPU


def test_a_device_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_DEVICE", "mps")
    with pytest.raises(InputError, match="LONGTAIL_DEVICE is mps"):
        hardware.select_device()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_DEVICE", "cuda")
    with pytest.raises(InputError, match="LONGTAIL_DEVICE"):
        hardware.select_device()


def test_precision_is_what_the_plan_says_or_what_the_hardware_multiplies_in() -> None:
    assert hardware.select_precision(plan(precision="float32"), CPU) == torch.float32
    assert hardware.select_precision(plan(precision="bfloat16"), CPU) == torch.bfloat16
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    expected = torch.bfloat16 if "bf16" in flags else torch.float32
    assert hardware.select_precision(plan(precision="auto"), CPU) == expected


def test_long_plans_compile_and_short_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_can_compile", lambda: True)
    published, smoke = plan(epochs=200, compile="auto"), plan(epochs=2, compile="auto")
    assert hardware.should_compile(published, 10_847, 32, CPU)
    assert not hardware.should_compile(smoke, 10_847, 32, CPU)
    assert hardware.should_compile(plan(epochs=2, compile="on"), 10_847, 32, CPU)
    assert not hardware.should_compile(plan(epochs=200, compile="off"), 10_847, 32, CPU)


def test_without_a_compiler_training_is_eager_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("longtail.progress._said", set())
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    for _ in range(2):
        assert not hardware.should_compile(plan(compile="on"), 10, 8, CPU)
    assert capsys.readouterr().out.count("g++") == 1


@pytest.mark.skipif(not hardware._can_compile(), reason="no C++ compiler with Python's headers")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
def test_stages_that_see_batches_of_any_size_are_compiled_once() -> None:
    torch.compiler.reset()
    counters.clear()
    network, names = tiny.make_network(), list(tiny.make_network().state_dict())
    hardware.compile_stages(network, varies_from=-1)
    for size in (4, 5, 7, 6):
        maps = network.maps(torch.rand(4, 3, 8, 8), stop=-1)
        network.maps(maps.repeat(2, 1, 1, 1)[:size], start=-1)
    assert counters["stats"]["unique_graphs"] == len(network.stages)
    assert list(network.state_dict()) == names


@pytest.mark.skipif(not hardware._can_compile(), reason="no C++ compiler with Python's headers")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
def test_compiled_stages_may_run_eagerly() -> None:
    torch.compiler.reset()
    counters.clear()
    network = tiny.make_network()
    hardware.compile_stages(network, varies_from=-1)
    with torch.inference_mode(), hardware.eagerly():
        network.maps(torch.rand(4, 3, 8, 8))
    assert counters["stats"]["unique_graphs"] == 0
    with torch.inference_mode():
        network.maps(torch.rand(4, 3, 8, 8))
    assert counters["stats"]["unique_graphs"] > 0
