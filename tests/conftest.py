"""Settings that every test module shares."""

import gc
import os

from hypothesis import settings

# No deadline in either: the first example may import zarr or torch, and shared machines stall.
settings.register_profile("dev", max_examples=40, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_finish() -> None:
    """Keep what imports have made out of collections: fault tests collect thousands of times."""
    gc.collect()
    gc.freeze()
