"""The best entries of each lane of blocks, and where they are, in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from lazychunks.arrays import Likeness, device, is_tensor, kind, plain
from lazychunks.converters import AnyArray
from lazychunks.folds.fold import Counts, Fold, Pass, Running
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


def top_k(k: int, axis: int = 0, *, largest: bool = True) -> Fold[AnyArray, TopK[AnyArray]]:
    """Take the ``k`` best entries along an axis, best first, and their indices.

    Blocks are joined along ``axis``: 0 for a flat sequence, 1 for a row of a nested one, as in
    ``nest(top_k(10, axis=1), concatenate())``. Memory is that of one block and of the result:
    most blocks are only compared with the worst of the best so far.

    Parameters
    ----------
    k
        How many. Where the joined blocks have fewer, the result has all of them: a long pass does
        not fail at its end.
    axis
        The axis to join blocks along and to choose from. Indices count from the start of the joined
        blocks, not of each.
    largest
        Whether large entries are good, or small ones.

    Returns
    -------
    Fold
        Its result is a :class:`TopK` of arrays (tensors, for tensors) that have the blocks' shape
        but for at most ``k`` entries along the axis; values have the blocks' dtype. Of equal
        entries, that of the lower index is the better one. NaN is the worst, whether ``largest`` or
        not: it is taken only where fewer than ``k`` others are.

    Raises
    ------
    TypeError, ValueError
        If ``k`` is no integer, or less than one.
    EmptySequenceError
        When run over no block.
    BlockShapeError, BlockDTypeError, BlockTypeError
        When run over a block that does not fit those before it, has another dtype, is complex (or
        of no numbers), or is no plain array.

    Examples
    --------
    >>> import numpy as np
    >>> best = top_k(2)([np.array([1.0, 7.0, 3.0]), np.array([np.nan, 5.0])])
    >>> best.values
    array([7., 5.])
    >>> best.indices
    array([1, 4])
    """
    return Best(k, axis, largest)


@dataclass(frozen=True, slots=True)
class Best(Fold[S, TopK[S]], Generic[S]):
    """What :func:`top_k` returns."""

    k: int
    axis: int = 0
    largest: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", check_positive(self.k, "k"))

    def start(self, counts: Counts, /) -> Running[S, TopK[S]]:  # noqa: ARG002
        """Start a pass."""
        running: _Ranking[S] = _Ranking(self.k, self.largest, Likeness(self.axis))
        return running


@dataclass(slots=True, eq=False)
class _Ranking(Pass, Generic[S]):
    """The best so far of each lane, as *keys*: numbers of which small ones are good.

    A sort puts NaN last, so that it is the worst key whatever the direction. Candidates, which are
    better than the worst of the best, wait until there are enough of them to be worth a sort.
    """

    k: int
    largest: bool
    blocks: Likeness
    length: int = 0
    """Number of entries of each lane that have been looked at, and of those that are merged."""
    merged: int = 0
    rest: tuple[int, ...] = ()
    """Shape of the blocks without the axis."""
    xp: Any = None
    keys: Any = None
    indices: Any = None
    waiting: list[tuple[Any, Any, Any]] = field(default_factory=list[tuple[Any, Any, Any]])
    """Candidates: their lanes, keys and indices."""
    candidates: int = 0
    """How many are waiting."""

    def step(self, block: S, /) -> None:
        self.xp, array = plain(block)
        self.blocks.check(array)
        lanes = self._lanes(array)
        if self.keys is None:
            none = (lanes.shape[0], 0)
            self.keys = self.xp.empty(none, dtype=lanes.dtype, device=device(lanes))
            self.indices = self.xp.empty(none, dtype=self.xp.int64, device=device(lanes))
        width = max(_WIDTH, 8 * self.k)  # parts of long lanes stay in the processor's cache
        for start in range(0, lanes.shape[1], width):
            self._take(lanes[:, start : start + width])

    def _take(self, lanes: Any) -> None:
        if lanes.shape[0]:
            lane, place = self._candidates(lanes)
            if len(lane):
                self.waiting.append((lane, self._key(lanes[lane, place]), place + self.length))
                self.candidates += len(lane)
        self.length += lanes.shape[1]
        enough = lanes.shape[0] * self.k
        if self.merged < self.k or self.candidates >= enough:
            self._merge()

    def finish(self) -> TopK[S]:
        dtype = self.blocks.dtype
        self._merge()
        with np.errstate(invalid="ignore"):  # to be no number is no fault of a cast to bfloat16
            values = self.xp.astype(self._key(self.keys), dtype)
        return TopK(self._joined(values), self._joined(self.indices))

    def _lanes(self, array: Any) -> Any:
        """View a block as a matrix of which each row is to be chosen from."""
        xp = self.xp
        what = kind(xp, array.dtype, ordered=True)
        dtype = self.blocks.dtype
        if what == "bool":
            dtype = xp.int8
        elif what == "real floating" and array.dtype.itemsize < 4:
            dtype = xp.float32  # exact, and neither library sorts all of the narrow ones
        lanes = xp.moveaxis(xp.astype(array, dtype, copy=False), self.blocks.axis, -1)
        self.rest = tuple(lanes.shape[:-1])
        return xp.reshape(lanes, (math.prod(self.rest), lanes.shape[-1]))

    def _joined(self, lanes: Any) -> Any:
        array = self.xp.reshape(lanes, (*self.rest, min(self.k, self.length)))
        return self.xp.moveaxis(array, -1, self.blocks.axis)

    def _key(self, x: Any) -> Any:
        """Turn entries into keys, or back."""
        if not self.largest:
            return x
        # The complement reverses the order of integers, where the negative would overflow.
        return ~x if self.xp.isdtype(x.dtype, "integral") else -x

    def _candidates(self, lanes: Any) -> tuple[Any, Any]:
        """Return lane and place of all entries that may be among the best, by rising place."""
        xp, k = self.xp, self.k
        full = self.merged >= k
        better = self._better(lanes) if full else None
        number, length = lanes.shape
        few = number * (k + length // 16)
        if length > k and (better is None or int(xp.count_nonzero(better)) > few):
            good = self._best_of(lanes)
            better = good if better is None else better & good
        if better is None:
            better = xp.ones(lanes.shape, dtype=xp.bool, device=device(lanes))
        # Entries are found in the order of memory: where lanes are columns, row by row.
        if self.blocks.axis == 0:
            found = xp.nonzero(xp.reshape(better.T, (-1,)))[0]
            return found % number, found // number
        found = xp.nonzero(xp.reshape(better, (-1,)))[0]
        return found // length, found % length

    def _better(self, lanes: Any) -> Any:
        """Which entries are better than the worst of the best so far."""
        worst = self._key(self.keys[:, -1:])
        better = lanes > worst if self.largest else lanes < worst
        unknown = worst != worst  # noqa: PLR0124 -- NaN
        if self.xp.any(unknown):
            better = better | (unknown & (lanes == lanes))  # noqa: PLR0124
        return better

    def _best_of(self, lanes: Any) -> Any:
        """Which entries are among the k best of a block, or as good as one of them."""
        xp, k = self.xp, self.k
        keys = self._key(lanes) if self.largest else xp.asarray(lanes, copy=True)
        if is_tensor(keys):
            kth = xp.topk(keys, k, dim=-1, largest=False).values[:, -1:]
        else:
            keys.partition(k - 1, axis=-1)
            kth = keys[:, k - 1 : k]
        worst = self._key(kth)
        good = lanes >= worst if self.largest else lanes <= worst
        return good | (worst != worst)  # noqa: PLR0124

    def _merge(self) -> None:
        """Merge the candidates into the best of their lanes."""
        xp, after = self.xp, min(self.k, self.length)
        self.merged = self.length
        if not self.waiting:
            return
        lane, keys, indices = (xp.concat(parts) for parts in zip(*self.waiting, strict=True))
        self.waiting.clear()
        self.candidates = 0
        where = device(keys)
        number, before = self.keys.shape
        hit = xp.zeros(number, dtype=xp.bool, device=where)
        hit[lane] = True
        lanes = xp.nonzero(hit)[0]
        # Short integers are sorted in linear time.
        small = xp.int16 if len(lanes) < 2**15 else xp.int64
        rank = xp.arange(len(lanes), dtype=small, device=where)
        rank_of = xp.zeros(number, dtype=small, device=where)
        rank_of[lanes] = rank
        # Those of lower index come first, and stay first among equals.
        old = xp.broadcast_to(rank[:, None], (len(rank), before))
        ranks = xp.concat([_flat(xp, old), rank_of[lane]])
        keys = xp.concat([_flat(xp, self.keys[lanes]), keys])
        indices = xp.concat([_flat(xp, self.indices[lanes]), indices])
        order = _ascending(xp, keys)
        order = order[xp.argsort(ranks[order], stable=True)]
        starts = xp.searchsorted(ranks[order], rank)
        chosen = order[starts[:, None] + xp.arange(after, device=where)]
        if after > before:  # every lane has candidates until the best are full
            self.keys, self.indices = keys[chosen], indices[chosen]
        else:
            self.keys[lanes], self.indices[lanes] = keys[chosen], indices[chosen]


def _ascending(xp: Any, keys: Any) -> Any:
    """Return the order of keys: the stable one, with NaN at the end."""
    if is_tensor(keys) or keys.dtype not in (np.float32, np.int32):
        return xp.argsort(keys, stable=True)
    # Key and place in one integer: NumPy sorts those ten times as fast as it sorts stably.
    bits = keys.view(np.int32)
    if keys.dtype == np.float32:
        # As integers, floating-point numbers are in order, but for the negative ones, -0.0 and NaN.
        bits = bits ^ (bits >> 31 & 0x7FFFFFFF)
        bits[bits == -1] = 0
        bits[keys != keys] = 0x7FFFFFFF  # noqa: PLR0124
    return np.sort(bits.astype(np.int64) << 32 | np.arange(len(keys))) & 0xFFFFFFFF


def _flat(xp: Any, x: Any) -> Any:
    return xp.reshape(x, (-1,))
