"""An engine that only remembers, on a wire."""

import pytest
from bench import StubEngine


@pytest.fixture
def engine() -> StubEngine:
    return StubEngine()


@pytest.fixture
def model(host, engine):
    """The stub on a STYLEAR_MODEL wire."""
    return host.HostedModel(engine)
