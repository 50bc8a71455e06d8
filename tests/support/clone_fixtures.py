"""The clone that the tests of the graph share, made once; a module that needs it says `pytest_plugins`."""

import pytest

from clones import Clone, shrink


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone whose graph has run once."""
    made = Clone(tmp_path_factory.mktemp("clone"))
    params = made.params()
    shrink(params)
    made.write_params(params)
    made.commit()
    made.run("dvc", "repro")
    return made
