"""Reducing along one axis while blocks are joined along another one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from lazychunks.folds.alike import AlikeFold, AlikePass, Like, find_axis
from lazychunks.folds.concatenate import Concatenate
from lazychunks.folds.fold import Fold
from lazychunks.runs.passes import State

S = TypeVar("S")
R = TypeVar("R")


def join_along(
    reduction: AlikeFold[S, R], axis: int | None, along: int | None, *, keeps_axis: bool = False
) -> Fold[S, R]:
    """Return a reduction of blocks that are joined along another axis than the reduced one.

    Parameters
    ----------
    reduction
        Joins along the axis that it reduces.
    axis
        This axis; None, if it reduces all entries.
    along
        The axis to join along. With None it is the same one, which fits the rows of a nested
        sequence; on a flat one, only axis 0 does.
    keeps_axis
        Whether results still have the axis that is reduced.
    """
    # If all entries are reduced, it does not matter how they are joined.
    if axis is None or along == axis or (along is None and axis == 0):
        return reduction
    return AlongFold(reduction, axis, along, keeps_axis)


@dataclass(frozen=True, slots=True, repr=False)
class AlongFold(AlikeFold[S, R], Generic[S, R]):
    """Reduces each block by itself, and joins the results."""

    reduction: AlikeFold[S, R]
    axis: int
    along: int | None
    """None, if it was left out: then the fold is for rows of a nested sequence."""
    keeps_axis: bool

    def __repr__(self) -> str:
        """Return one line: the reduction, and the other axis."""
        return f"{repr(self.reduction)[:-1]}, along={self.along})"

    def in_rows(self) -> Fold[S, R]:
        """Return the reduction itself if nobody said along which axis the blocks of a row lie."""
        return self.reduction if self.along is None else self

    def start_at(self, number: int, /) -> AlongPass[S, R]:
        """Start a pass.

        Raises
        ------
        ValueError
            If nobody said along which axis blocks are joined.
        """
        if self.along is None:
            # Joined along the reduced axis, rows of different blocks would become one.
            axis = self.axis
            columns = "blocks are columns" if axis == 1 else f"blocks are joined along axis {axis}"
            raise ValueError(
                f"a fold of a flat sequence reduces axis {axis}, and does not say how blocks are "
                "joined: give it along=0 to reduce the rows of each block and join the results, "
                f"or along={axis} if {columns}"
            )
        return AlongPass(self.along, number, self, self.reduction.start_at(number))


@dataclass(slots=True, eq=False)
class AlongPass(AlikePass[S, R], Generic[S, R]):
    """A pass over all blocks, or over those of a part."""

    fold: AlongFold[S, R]
    running: AlikePass[S, R]
    """Takes the blocks if both axes turn out to be the same."""
    results: list[R] = field(default_factory=list[R], init=False)
    """Of each block, if the axes differ."""
    reduced_axis: int = field(default=0, init=False)

    def begin(self, like: Like) -> None:
        """Find the axis to reduce."""
        self.reduced_axis = find_axis(like.shape, self.fold.axis, self.start)

    def step(self, block: S, /) -> None:
        """Reduce the block."""
        self.check(block)
        # Axes 1 and -1 may be one axis or two: only the blocks tell.
        if self.reduced_axis == self.like.axis:
            self.running.step(block)
        else:
            self.results.append(self.fold.reduction([block]))

    def value(self) -> tuple[State, list[R]]:
        """Return the state of the pass inside, and the results of the blocks; one is empty."""
        return self.running.state(), self.results

    def merge_value(self, value: tuple[State, list[R]]) -> None:
        """Take the results of the blocks of a part."""
        state, results = value
        self.running.merge_state(state)
        self.results += results

    def finish(self) -> R:
        """Join the results."""
        along = self.like.axis
        assert along is not None
        if along == self.reduced_axis:
            return self.running.finish()
        if isinstance(self.results[0], int):  # a count, which is the same for all blocks
            return self.results[0]
        # Results have one axis less than blocks, so that the axes behind it move up.
        is_removed = self.reduced_axis < along and not self.fold.keeps_axis
        joined: Concatenate[R] = Concatenate(along - is_removed)
        return joined(self.results)
