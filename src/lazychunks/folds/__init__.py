"""Folds: values that describe one pass over blocks, and what a fold of one's own is built from."""

from __future__ import annotations

from lazychunks.folds.fold import EitherFold, Fold, KeepsBlockType, NestedFold
from lazychunks.layout.parts import Part
from lazychunks.runs.passes import (
    Counts,
    PartFold,
    PartRunning,
    Pass,
    Running,
    RunningRows,
    Scope,
    Sink,
    State,
)

__all__ = [
    "Counts",
    "EitherFold",
    "Fold",
    "KeepsBlockType",
    "NestedFold",
    "Part",
    "PartFold",
    "PartRunning",
    "Pass",
    "Running",
    "RunningRows",
    "Scope",
    "Sink",
    "State",
]
