"""Comparisons between a run and what an earlier start of it has stored, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazychunks.errors import BlockIndex, ResumeMismatchError
from lazychunks.storage.resuming.record import Document, own_attributes


def mismatch(
    what: str,
    field: str,
    was: object,
    now: object,
    way_out: str = "blocks must be the same each time",
) -> ResumeMismatchError:
    """Return the error that says what is not as it was."""
    return ResumeMismatchError(
        f"{what} is {now}, was {was} in the earlier start of this run; {way_out}, or pass "
        "overwrite=True without resume to start anew",
        field=field,
        expected=was,
        got=now,
    )


def check_same_run(run_id: str | None, noted: str | None, place: str) -> None:
    """Refuse an unfinished write of another run.

    Raises
    ------
    ResumeMismatchError
        If the run_id differs.
    """
    if noted != run_id:
        way_out = "pass that run_id to go on with it"
        raise mismatch(f"at {place}, run_id", "run_id", noted, run_id, way_out)


def check_same_layout(stored: Document, planned: Document, place: str) -> None:
    """Refuse to go on with an array of another layout.

    Raises
    ------
    ResumeMismatchError
        If any metadata but the shape differs.
    """
    for name in sorted({*stored, *planned} - {"shape"}):
        was, now = stored.get(name), planned.get(name)
        if name == "attributes":
            was, now = own_attributes(stored), own_attributes(planned)
        if was != now:
            raise mismatch(f"at {place}, {name}", name, was, now, "pass the same options")


def check_same_dtype(stored: np.dtype[Any], dtype: np.dtype[Any]) -> None:
    """Refuse to go on with blocks of another dtype; byte order does not count.

    Raises
    ------
    ResumeMismatchError
        If it differs.
    """
    if dtype.newbyteorder("=") != stored.newbyteorder("="):
        way_out = "blocks and dtype= must be the same each time"
        raise mismatch("dtype", "dtype", stored, dtype, way_out)


def check_same_values(
    stored: NDArray[Any], block: NDArray[Any], index: BlockIndex, rtol: float | None
) -> None:
    """Compare a stored block with the same block, computed again.

    Raises
    ------
    ResumeMismatchError
        If they differ: in shape, bitwise, or (but for times) beyond ``rtol``.
    """
    if block.shape != stored.shape:
        raise mismatch(f"the shape of block {index}", "shape", stored.shape, block.shape)
    again = block.astype(stored.dtype)
    if rtol is None or stored.dtype.kind in "mM":
        same = stored.tobytes() == again.tobytes()
    else:
        # Finite values apart: NumPy 1.26 takes a complex infinity for NaN when it compares both.
        finite = np.isfinite(again) & np.isfinite(stored)
        near = np.allclose(again[finite], stored[finite], rtol=rtol, atol=0.0)
        same = near and np.array_equal(again[~finite], stored[~finite], equal_nan=True)
    if not same:
        raise ResumeMismatchError(
            f"block {index} has other values than when the unfinished write was begun; pass rtol= "
            "if it is computed with noise, or overwrite=True without resume to start anew",
            field="value",
            expected=stored,
            got=block,
        )
