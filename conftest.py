"""What all tests share."""

import gc

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Frameworks and tests stay until the end: the garbage collector passes them by, which saves 7 % of the time."""
    gc.collect()
    gc.freeze()
