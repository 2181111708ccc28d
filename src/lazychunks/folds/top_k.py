"""The best entries of each lane of blocks, and where they are, in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from lazychunks.arrays import (
    Array,
    DType,
    Namespace,
    device,
    is_numpy,
    is_tensor,
    numeric_kind,
    set_entries,
)
from lazychunks.converters import AnyArray
from lazychunks.folds.alike import AlikeFold, AlikePass, Like
from lazychunks.folds.along import join_along
from lazychunks.folds.fold import Fold
from lazychunks.layout.checks import check_positive

S = TypeVar("S")

_WIDTH = 2048
"""Number of entries of each lane that are looked at together."""


class TopK(NamedTuple, Generic[S]):
    """The best entries along an axis, best first."""

    values: S
    """The entries."""
    indices: S
    """Where each is along the axis of the joined blocks; 64-bit integers."""


def top_k(
    k: int, axis: int = 0, along: int | None = None, *, largest: bool = True
) -> Fold[AnyArray, TopK[AnyArray]]:
    """Take the ``k`` best entries along an axis, best first, and their indices.

    It needs the memory of one block and of the result: most blocks are only compared with the worst
    of the best so far.

    Parameters
    ----------
    k
        How many. Where the joined blocks have fewer, the result has all of them: a long pass does
        not fail at its end.
    axis
        The axis to choose from: 0 for a flat sequence, 1 for a row of a nested one, as in
        ``nest(top_k(10, axis=1), concatenate())``. Indices count from the start of the joined
        blocks, not of each.
    along
        The axis that blocks are joined along, as in :func:`total`; by default the one to choose
        from.
    largest
        Whether large entries are good, or small ones.

    Returns
    -------
    Fold
        Its result is a :class:`TopK` of arrays (tensors, for tensors) that have the blocks' shape
        but for at most ``k`` entries along the axis; values have the blocks' dtype. Of equal
        entries, the one with the lower index is better. NaN is the worst, whether ``largest`` or
        not: it is taken only where there are fewer than ``k`` others.

    Raises
    ------
    TypeError, ValueError
        If ``k`` is not an integer, or less than one; or when run over a flat sequence, with
        another ``axis`` than 0 and no ``along``.
    EmptySequenceError
        When run over no block.
    BlockShapeError, BlockDTypeError, BlockTypeError
        When run over a block that does not fit those before it, has another dtype, is complex (or
        not of numbers), or is not a plain array.

    Examples
    --------
    >>> import numpy as np
    >>> best = top_k(2)([np.array([1.0, 7.0, 3.0]), np.array([np.nan, 5.0])])
    >>> best.values
    array([7., 5.])
    >>> best.indices
    array([1, 4])
    >>> top_k(1, axis=1, along=0)([np.array([[1, 7, 3]]), np.array([[9, 5, 0]])]).values
    array([[7],
           [9]])
    """
    return join_along(TopKFold(k, axis, largest), axis, along, keeps_axis=True)


@dataclass(frozen=True, slots=True)
class TopKFold(AlikeFold[S, TopK[S]], Generic[S]):
    """The fold that :func:`top_k` returns."""

    k: int
    axis: int = 0
    largest: bool = True

    def __post_init__(self) -> None:
        # Here, and not with the first block, which may take minutes to compute.
        object.__setattr__(self, "k", check_positive(self.k, "k"))

    def start_at(self, number: int, /) -> TopKPass[S]:
        """Start a pass."""
        return TopKPass(self.axis, number, self.k, self.largest)


class Ranking(NamedTuple):
    """The best entries of each lane of some blocks, best first."""

    length: int
    """Number of entries of each lane."""
    keys: Array
    indices: Array
    """Where they are along the axis of these blocks."""


class Candidates(NamedTuple):
    """Entries that may be among the best, those of lower index first."""

    lanes: Array
    keys: Array
    indices: Array


@dataclass(slots=True, eq=False)
class TopKPass(AlikePass[S, TopK[S]], Generic[S]):
    """The best so far of each lane, as *keys*: numbers of which small ones are good.

    A sort puts NaN last, so that it is the worst key whatever the direction. Candidates, which are
    better than the worst of the best, wait until there are enough of them to be worth a sort.
    """

    k: int
    largest: bool
    xp: Namespace = field(init=False)
    rest: tuple[int, ...] = field(init=False)
    """Shape of the blocks without the axis."""
    lane_dtype: DType = field(init=False)
    length: int = field(default=0, init=False)
    """Number of entries of each lane that have been looked at."""
    merged: int = field(default=0, init=False)
    """How many of them have been merged into the best."""
    keys: Array = field(init=False)
    indices: Array = field(init=False)
    waiting: list[Candidates] = field(default_factory=list[Candidates], init=False)
    candidates: int = field(default=0, init=False)
    """How many are waiting."""

    def begin(self, like: Like) -> None:
        """Choose the dtype of keys."""
        xp, axis = like.namespace, like.axis
        assert axis is not None
        self.xp, self.rest = xp, (*like.shape[:axis], *like.shape[axis + 1 :])
        kind = numeric_kind(xp, like.dtype, ordered=True)
        self.lane_dtype = like.dtype
        if kind == "bool":
            self.lane_dtype = xp.int8
        elif kind == "real floating" and like.dtype.itemsize < 4:
            self.lane_dtype = xp.float32  # exact, and neither library sorts all narrower ones

    def step(self, block: S, /) -> None:
        """Keep the entries that may be among the best."""
        lanes = self._take_lanes(self.check(block))
        # Not in begin(): the device of the blocks was not known there.
        if self.blocks == 1:
            empty, where = (lanes.shape[0], 0), device(lanes)
            self.keys = self.xp.empty(empty, dtype=lanes.dtype, device=where)
            self.indices = self.xp.empty(empty, dtype=self.xp.int64, device=where)
        width = max(_WIDTH, 8 * self.k)  # pieces of long lanes stay in the processor's cache
        for start in range(0, lanes.shape[1], width):
            self._add_piece(lanes[:, start : start + width])

    def value(self) -> Ranking:
        """Return the best so far."""
        self._merge()
        return Ranking(self.length, self.keys, self.indices)

    def merge_value(self, value: Ranking) -> None:
        """Take the best of the next part for candidates."""
        length, keys, indices = value
        # The best of the first part are the best so far. Later ones may not be, and wait.
        if self.blocks == 0:
            self.keys, self.indices, self.length, self.merged = keys, indices, length, length
            return
        xp, (number, best) = self.xp, keys.shape
        lane = xp.reshape(xp.arange(number, dtype=xp.int64, device=device(keys)), (-1, 1))
        lane = xp.broadcast_to(lane, (number, best))
        self._add_candidates(_flat(xp, lane), _flat(xp, keys), _flat(xp, indices))
        self._count_entries(length)

    def finish(self) -> TopK[S]:
        """Return the best entries in the blocks' dtype, and their indices."""
        dtype = self.like.dtype
        self._merge()
        with np.errstate(invalid="ignore"):  # NaN is no fault of a cast to bfloat16
            values = self.xp.astype(self._convert_key(self.keys), dtype)
        best: Any = TopK(self._restore_axis(values), self._restore_axis(self.indices))
        made: TopK[S] = best
        return made

    def _add_piece(self, lanes: Array) -> None:
        if lanes.shape[0]:
            lane, place = self._find_candidates(lanes)
            if len(lane):
                self._add_candidates(lane, self._convert_key(lanes[lane, place]), place)
        self._count_entries(lanes.shape[1])

    # Indices count from the first entry of all, hence the length of the blocks before.
    def _add_candidates(self, lane: Array, keys: Array, places: Array) -> None:
        """Add candidates, with places among the entries that are counted next."""
        self.waiting.append(Candidates(lane, keys, places + self.length))
        self.candidates += lane.shape[0]

    def _count_entries(self, length: int) -> None:
        """Note how far the pass is, and merge the candidates if they are many."""
        self.length += length
        enough = math.prod(self.rest) * self.k
        if self.merged < self.k or self.candidates >= enough:
            self._merge()

    def _take_lanes(self, array: Array) -> Array:
        """View a block as a matrix of which each row is to be chosen from."""
        xp = self.xp
        lanes = xp.moveaxis(xp.astype(array, self.lane_dtype, copy=False), self.like.axis, -1)
        return xp.reshape(lanes, (math.prod(self.rest), lanes.shape[-1]))

    def _restore_axis(self, lanes: Array) -> Array:
        array = self.xp.reshape(lanes, (*self.rest, min(self.k, self.length)))
        return self.xp.moveaxis(array, -1, self.like.axis)

    def _convert_key(self, x: Array) -> Array:
        """Turn entries into keys, or back."""
        if not self.largest:
            return x
        # The complement reverses the order of integers, where the negative would overflow.
        return ~x if self.xp.isdtype(x.dtype, "integral") else -x

    def _find_candidates(self, lanes: Array) -> tuple[Array, Array]:
        """Return lane and place of all entries that may be among the best, by rising place."""
        xp, k = self.xp, self.k
        better: Array | None = self._find_better(lanes) if self.merged >= k else None
        number, length = lanes.shape
        few = number * (k + length // 16)
        if length > k and (better is None or int(xp.count_nonzero(better)) > few):
            good = self._find_best(lanes)
            better = good if better is None else better & good
        if better is None:
            better = xp.ones(lanes.shape, dtype=xp.bool, device=device(lanes))
        # Entries are found in the order of memory: where lanes are columns, row by row.
        if self.like.axis == 0:
            found = xp.nonzero(_flat(xp, better.T))[0]
            return found % number, found // number
        found = xp.nonzero(_flat(xp, better))[0]
        return found // length, found % length

    def _find_better(self, lanes: Array) -> Array:
        """Mark the entries that are better than the worst of the best so far."""
        xp = self.xp
        worst = self._convert_key(self.keys[:, -1:])
        better = lanes > worst if self.largest else lanes < worst
        unknown = xp.isnan(worst)
        if xp.any(unknown):
            better = better | (unknown & ~xp.isnan(lanes))
        return better

    def _find_best(self, lanes: Array) -> Array:
        """Mark the entries that are among the k best of a piece, or as good as one of them."""
        xp, k = self.xp, self.k
        keys: Any = self._convert_key(lanes) if self.largest else xp.asarray(lanes, copy=True)
        if is_tensor(keys):
            torch: Any = xp
            kth = torch.topk(keys, k, dim=-1, largest=False).values[:, -1:]
        elif is_numpy(keys):
            keys.partition(k - 1, axis=-1)
            kth = keys[:, k - 1 : k]
        else:
            kth = xp.sort(keys, axis=-1)[:, k - 1 : k]
        worst = self._convert_key(kth)
        good = lanes >= worst if self.largest else lanes <= worst
        return good | xp.isnan(worst)

    def _merge(self) -> None:
        """Merge the candidates into the best of their lanes."""
        xp, after = self.xp, min(self.k, self.length)
        self.merged = self.length
        if not self.waiting:
            return
        lane, keys, indices = (xp.concat(pieces) for pieces in zip(*self.waiting, strict=True))
        self.waiting.clear()
        self.candidates = 0
        where = device(keys)
        number, before = self.keys.shape
        hit = xp.zeros(number, dtype=xp.bool, device=where)
        lanes = xp.nonzero(set_entries(hit, lane, True))[0]  # the value
        # Short integers are sorted in linear time.
        small = xp.int16 if len(lanes) < 2**15 else xp.int64
        rank = xp.arange(len(lanes), dtype=small, device=where)
        rank_of = xp.zeros(number, dtype=small, device=where)
        rank_of = set_entries(rank_of, lanes, rank)
        # Entries of lower index come first, and stay first among equals.
        old = xp.broadcast_to(rank[:, None], (len(lanes), before))
        ranks = xp.concat([_flat(xp, old), rank_of[lane]])
        keys = xp.concat([_flat(xp, self.keys[lanes]), keys])
        indices = xp.concat([_flat(xp, self.indices[lanes]), indices])
        order = _sort_keys(xp, keys)
        order = order[xp.argsort(ranks[order], stable=True)]
        starts = xp.searchsorted(ranks[order], rank)
        chosen = order[starts[:, None] + xp.arange(after, device=where)]
        if after > before:  # every lane has candidates until the best are full
            self.keys, self.indices = keys[chosen], indices[chosen]
        else:
            self.keys = set_entries(self.keys, lanes, keys[chosen])
            self.indices = set_entries(self.indices, lanes, indices[chosen])


def _sort_keys(xp: Namespace, keys: Array) -> Array:
    """Return the order of keys: the stable one, with NaN at the end."""
    given: Any = keys
    if not is_numpy(given) or given.dtype not in (np.float32, np.int32):
        return xp.argsort(keys, stable=True)
    # Key and place in one integer: NumPy sorts those ten times as fast as it sorts stably.
    bits = given.view(np.int32)
    if given.dtype == np.float32:
        # As integers, floating-point numbers are in order, but for the negative ones, -0.0 and NaN.
        bits = bits ^ (bits >> 31 & 0x7FFFFFFF)
        bits[bits == -1] = 0
        bits[np.isnan(given)] = 0x7FFFFFFF
    packed = bits.astype(np.int64) << 32 | np.arange(len(given))
    order: Any = np.sort(packed) & 0xFFFFFFFF
    sorted_keys: Array = order
    return sorted_keys


def _flat(xp: Namespace, x: Array) -> Array:
    return xp.reshape(x, (-1,))
