"""How many processes decode."""

import os

import pytest

from longtail.loading.reading import MOST_WORKERS, TINY, worker_count
from longtail.spec import InputError


def test_the_environment_decides_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted in (0, 3, 40):
        monkeypatch.setenv("LONGTAIL_WORKERS", str(wanted))
        assert worker_count(1) == worker_count(10**6) == wanted


def test_few_files_need_no_workers_and_many_one_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGTAIL_WORKERS", raising=False)
    assert worker_count(TINY - 1) == 0
    assert 1 <= worker_count(TINY) <= min(MOST_WORKERS, os.cpu_count() or 1)


@pytest.mark.parametrize("wanted", ["two", "-1", "1.5"])
def test_no_count_is_refused(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_WORKERS", wanted)
    with pytest.raises(InputError, match="LONGTAIL_WORKERS"):
        worker_count(5)
