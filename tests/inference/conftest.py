"""Models are traced with lengths that are any number: who checks types at run time would ask which."""

import logging

import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def traceable(monkeypatch):
    """No checks of types while a test runs, and nothing logged of each step of a trace."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)
