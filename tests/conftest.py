"""What all tests share: one thread, repeatable hypothesis, and the tiny split with a network for it."""

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import settings

import tiny
from longtail.images.labeled import LongTailSplit
from longtail.models.network import Network

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

torch.set_num_threads(1)  # the tensors are tiny: more threads only wait for each other
settings.register_profile("longtail", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("longtail")


@pytest.fixture
def tiny_split() -> LongTailSplit:
    """Five separable classes of 8x8 colour images with 20, 12, 7, 3 and 1 for training."""
    return tiny.make_split()


@pytest.fixture
def tiny_network() -> Network:
    """A fresh network for the tiny split, the same weights every time."""
    return tiny.make_network()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "LoadFileScheduling | None":
    """Give a file's tests to one worker, and to one worker all of tests/services/test_remote_*, which share servers."""
    from xdist.scheduler import LoadFileScheduling

    class SharingServers(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "remote" if "/test_remote_" in file else file

    return SharingServers(config, log) if config.getoption("dist") == "loadfile" else None
