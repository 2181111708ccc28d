"""Settings that every test module shares."""

import gc
import os

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
