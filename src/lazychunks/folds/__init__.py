"""Folds: values that describe one pass over blocks, and what a fold of one's own is built from."""

from __future__ import annotations

from lazychunks.folds.fold import (
    Counts,
    EitherFold,
    Fold,
    Joins,
    NestedFold,
    Pass,
    Running,
    RunningRows,
)

__all__ = [
    "Counts",
    "EitherFold",
    "Fold",
    "Joins",
    "NestedFold",
    "Pass",
    "Running",
    "RunningRows",
]
