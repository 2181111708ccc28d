"""Settings that every test module shares."""

import gc
import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

# No deadline in either: the first example may import zarr or torch, and shared machines stall.
settings.register_profile("dev", max_examples=20, deadline=None)
# What decides about a change is the same each time; luck may find more, by `dev` and by `thorough`.
settings.register_profile(
    "ci", settings.get_profile("dev"), max_examples=40, derandomize=True, print_blob=True
)
settings.register_profile("thorough", settings.get_profile("dev"), max_examples=500)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_finish() -> None:
    """Keep what imports have made out of collections: fault tests collect thousands of times."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> Generator[None]:
    """Python raises nothing if it was started with the signal ignored, as by `&` in a script."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
