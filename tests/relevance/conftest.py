"""What tests of this room may use."""

import jaxtyping
import pytest


@pytest.fixture
def untyped(monkeypatch):
    """Types are not checked, as for whoever uses the package: only tests check them."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
