"""Settings for every test: no telemetry from Flower, and two hypothesis profiles."""

from __future__ import annotations

import os
import warnings

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

with warnings.catch_warnings():  # what flwr's own dependencies warn of while they are imported is not ours
    warnings.simplefilter("ignore")
    import flwr.app
    import flwr.clientapp
    import flwr.serverapp  # noqa: F401

pytest.register_assert_rewrite("tests.support", "tests.analyses.contract")

# The contract's tests are inherited, so several classes run one property; that is meant.
_QUIET = (HealthCheck.differing_executors, HealthCheck.too_slow)
# CI tries the same examples every time, so that a change fails by its own fault; `make soak` tries new ones
settings.register_profile(
    "ci", max_examples=12, deadline=None, suppress_health_check=_QUIET, derandomize=True
)
settings.register_profile("soak", max_examples=1000, deadline=None, suppress_health_check=_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of the contract that takes a ``study`` over all studies of its class."""
    studies = getattr(metafunc.cls, "studies", None)
    if studies is not None and "study" in metafunc.fixturenames:
        metafunc.parametrize("study", list(studies.values()), ids=list(studies))


class ByNetwork(LoadScopeScheduling):
    """Keeps a module whose network is shared by its tests in one worker, so that it is started once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if {"network", "chaos"} & set(file.split("/")) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByNetwork:
    """Say how workers share the tests."""
    return ByNetwork(config, log)
