"""The two sequences, and what an aggregator over them is."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, dataclass
from functools import partial
from itertools import chain
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    Protocol,
    Self,
    SupportsIndex,
    TypeAlias,
    cast,
    overload,
)

from typing_extensions import TypeVar, Unpack

from lazychunks.blocks.ahead import Ahead, closing_runs
from lazychunks.blocks.combining import fold_rows
from lazychunks.blocks.describe import describe_factory, render_table
from lazychunks.blocks.drawing import draw_blocks
from lazychunks.blocks.factories import (
    Mapped,
    Product,
    WithProgress,
    change_inside_progress,
    column_count,
    is_nested,
    map_blocks,
    map_rows,
    without_progress,
)
from lazychunks.blocks.iterate import (
    check_factory,
    check_hint,
    count_blocks,
    known_length,
    open_blocks,
    open_rows,
)
from lazychunks.blocks.rebatching import rebatch_blocks
from lazychunks.blocks.slicing import (
    compute_block,
    shuffle_blocks,
    slice_blocks,
    slice_count,
    take_line,
)
from lazychunks.converters import AnyArray, choose_converter
from lazychunks.layout.checks import check_integer, check_positive, check_size
from lazychunks.layout.plan import MAX_CHUNK_BYTES
from lazychunks.progress import is_shown, log_duration
from lazychunks.runs.drive import find_calls, run_fold
from lazychunks.runs.ranks import RankRunner, open_runner
from lazychunks.runs.runners import BlockExecutor, Provider, Runner

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import zarr

    from lazychunks.converters import FromNumpy, ToNumpy
    from lazychunks.runs.exchange import Ranks
    from lazychunks.storage.group_options import Coordinates
    from lazychunks.storage.options import ArrayOptions, Destination, ZarrOptions

    StoredArray: TypeAlias = zarr.Array[Any]
    StoredGroup: TypeAlias = zarr.Group

T = TypeVar("T")
U = TypeVar("U")
A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True, default=Any)
E_co = TypeVar("E_co", covariant=True)


class SequenceAggregator(Protocol[T_contra, R_co]):
    """Anything that can be called with a sequence of blocks: ``list``, ``max``, a function, a fold.

    Subclassing is allowed, not needed, with one parameter (the block type) or two (the result
    type as well).

    Examples
    --------
    >>> class Count(SequenceAggregator[object, int]):
    ...     def __call__(self, tensor_sequence: LazyChunkSequence[object]) -> int:
    ...         return sum(1 for _ in tensor_sequence)
    >>> LazyChunkSequence(lambda: [1, 2, 3]).compute(Count())
    3
    """

    def __call__(self, tensor_sequence: LazyChunkSequence[T_contra], /) -> R_co:
        """Fold the blocks of a sequence into one value."""
        ...


class NestedSequenceAggregator(Protocol[T_contra, R_co]):
    """Anything that can be called with a nested sequence of blocks."""

    def __call__(self, nested_sequence_of_tensors: NestedLazyChunkSequence[T_contra], /) -> R_co:
        """Fold the rows of blocks of a nested sequence into one value."""
        ...


@dataclass(frozen=True, slots=True)
class ListAggregator:
    """Collects the blocks into a list; what ``compute`` does by default."""

    def __call__(self, tensor_sequence: LazyChunkSequence[T], /) -> list[T]:
        """Return the blocks in order."""
        # Not list(tensor_sequence): it allocates whatever the hint says.
        return list(iter(tensor_sequence))


@dataclass(frozen=True, slots=True)
class NestedListAggregator:
    """Collects the blocks into a list of lists; what ``compute`` does by default."""

    def __call__(self, nested_sequence_of_tensors: NestedLazyChunkSequence[T], /) -> list[list[T]]:
        """Return the blocks in order, by row."""
        return [list(row) for row in nested_sequence_of_tensors]


C = TypeVar("C")


def _immutable(cls: type[C]) -> type[C]:
    """Repair a frozen, slotted, generic dataclass: ``LazyChunkSequence[int](...)`` must work.

    ``Generic`` sets ``__orig_class__`` on each instance and ignores an AttributeError, but before
    Python 3.12 a frozen, slotted dataclass raises a TypeError. ``__getstate__`` and
    ``__setstate__`` are replaced too: the dataclass's own drop the attributes that a subclass adds.
    """

    def refuse(self: object, name: str, *_: object) -> None:
        raise FrozenInstanceError(f"cannot change field {name!r} of {type(self).__name__}")

    def restore(self: object, state: tuple[dict[str, object] | None, ...]) -> None:
        for name, value in chain.from_iterable((part or {}).items() for part in state):
            object.__setattr__(self, name, value)

    methods = {"__setattr__": refuse, "__delattr__": refuse, "__setstate__": restore}
    for name, method in (methods | {"__getstate__": object.__getstate__}).items():
        setattr(cls, name, method)
    return cls


def _copy_with_factory(sequence: C, factory: Callable[[], object]) -> C:
    """Copy a sequence with another factory."""
    # Copied, not constructed: the constructor of a subclass may take other arguments.
    changed = copy.copy(sequence)
    object.__setattr__(changed, "generator_factory", factory)
    return changed


@dataclass(frozen=True, slots=True, repr=False)
class _Sequence(Generic[T_co, E_co]):
    """The methods that both sequences share; ``compute()`` returns a list of ``E_co``."""

    _hint_name: ClassVar[str]
    """Name of the field that holds the length hint; each sequence has its own."""

    generator_factory: Callable[[], Iterable[Any]]

    def __post_init__(self) -> None:
        check_factory(self.generator_factory)
        hint = check_hint(self._hint, self._hint_name)
        object.__setattr__(self, self._hint_name, hint)

    @property
    def _hint(self) -> int | None:
        hint: int | None = getattr(self, self._hint_name)
        return hint

    @abstractmethod
    def __iter__(self) -> Iterator[Any]: ...

    def __length_hint__(self) -> int:
        """Return the number of blocks (nested: rows) hinted at, for ``operator.length_hint``."""
        return NotImplemented if self._hint is None else self._hint

    def __repr__(self) -> str:
        """Return one line for people, however many items there are."""
        facts = describe_factory(self.generator_factory, self._hint, self._axes)
        blocks, kind, made_by = facts.values()
        return f"<{type(self).__name__}: {blocks} blocks, {kind}, {made_by}>"

    def _repr_html_(self) -> str:
        """Return a small table, and a drawing of blocks of known sizes, which notebooks show."""
        facts = describe_factory(self.generator_factory, self._hint, self._axes)
        return render_table(type(self).__name__, facts) + draw_blocks(self.generator_factory)

    def parallel(self, executor: Executor, max_in_flight: int | None = None) -> Self:
        """Return the same sequence, its blocks computed ahead by an executor.

        Blocks come in order, an error at its place; when the consumer stops, what has not begun
        is cancelled.

        Parameters
        ----------
        executor
            Any executor: threads, or processes (the block function must be picklable then).
        max_in_flight
            Number of blocks that are being computed or wait to be consumed, at most; by default
            two for each core.

        Raises
        ------
        TypeError
            If the sequence is not map-backed.
        ValueError
            If the bound is not positive.

        Examples
        --------
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> with ThreadPoolExecutor(2) as executor:
        ...     LazyChunkSequence.from_map(abs, [-1, 2]).parallel(executor).compute()
        [1, 2]
        """
        ahead = partial(Ahead[Any].of, executor=executor, max_in_flight=max_in_flight)
        return _copy_with_factory(self, change_inside_progress(self.generator_factory, ahead))

    @overload
    def compute(
        self,
        aggregator: None = None,
        *,
        executor: Executor | Provider | None = None,
        ranks: Ranks | None = None,
        max_in_flight: int | None = None,
        progress: bool | None = None,
    ) -> list[E_co]: ...

    @overload
    def compute(
        self,
        aggregator: Callable[[Self], R],
        *,
        executor: Executor | Provider | None = None,
        ranks: Ranks | None = None,
        max_in_flight: int | None = None,
        progress: bool | None = None,
    ) -> R: ...

    def compute(
        self,
        aggregator: Callable[[Self], R] | None = None,
        *,
        executor: Executor | Provider | None = None,
        ranks: Ranks | None = None,
        max_in_flight: int | None = None,
        progress: bool | None = None,
    ) -> list[E_co] | R:
        """Generate the blocks and fold them.

        Parameters
        ----------
        aggregator
            Any callable over the sequence; by default the blocks are collected into a list (nested:
            a list of lists).
        executor
            Whose workers compute the blocks of a map-backed sequence: any
            ``concurrent.futures.Executor``, or a ``dask.distributed.Client``. A fold that merges
            is folded there as well, and only its states travel; sinks store there. All else gets
            the blocks, in order, as from :meth:`parallel`. The result is the same to the bit, and
            nothing is under way any more when this returns or raises.
        ranks
            Processes that all make this call, such as :class:`lazychunks.torch.DistributedRanks`;
            not together with an executor. Each rank computes its share of the blocks of a
            map-backed sequence, and all of them return the same result. What is said of workers
            holds for ranks.
        max_in_flight
            Number of tasks that the executor has been given and that have not ended, at most; by
            default two for each worker. With ranks, number of parts of the sequence between two
            exchanges.
        progress
            True shows a progress bar on stderr, False does not; by default it is shown where
            stderr is a terminal. Of several ranks, the first one shows it.

        Returns
        -------
        object
            What the aggregator returns. The duration is logged at INFO on ``lazychunks``.

        Raises
        ------
        NotSpreadableError
            With an executor or ranks, if the sequence is not map-backed, or cannot be sent to the
            workers.
        RankFailedError
            If another rank fails; the error itself is raised there.
        RanksDifferError
            If the ranks do not make the same call; before any block is computed where arguments
            differ.
        TypeError
            If there are both an executor and ranks.

        Examples
        --------
        >>> LazyChunkSequence(lambda: [3, 1, 2]).compute(max)
        3
        >>> import numpy as np
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> from lazychunks import total
        >>> with ThreadPoolExecutor(2) as executor:
        ...     LazyChunkSequence.from_map(np.ones, [2, 3]).compute(total(), executor=executor)
        array(5.)
        """
        listing: Any = NestedListAggregator() if is_nested(self) else ListAggregator()
        aggregate: Any = listing if aggregator is None else aggregator
        with (
            log_duration(f"{type(self).__name__}.compute"),
            open_runner(executor, ranks, max_in_flight) as runner,
            self._open(progress, runner) as sequence,
        ):
            if runner is None:
                return cast("list[E_co] | R", aggregate(sequence))
            self._agree(runner, aggregator=aggregate)
            # A fold over blocks takes the rows of a nested sequence for blocks, and the other way
            # round: that is for the fold itself to do, or to refuse.
            start = "start_rows" if is_nested(self) else "start"
            if getattr(aggregate, "merges", False) and hasattr(aggregate, start):
                return cast("R", run_fold(aggregate, sequence, self._axes, runner))
            calls = find_calls(sequence, self._axes, spreads=True)
            assert calls is not None  # else it is refused
            if isinstance(runner, RankRunner):
                gather = partial(runner.gather_blocks, calls, self._axes)
                return cast("list[E_co] | R", aggregate(_copy_with_factory(sequence, gather)))
            with BlockExecutor(runner) as blocks:
                ahead = sequence.parallel(blocks, runner.max_in_flight)
                with closing_runs(ahead.generator_factory) as factory:
                    return cast("list[E_co] | R", aggregate(_copy_with_factory(ahead, factory)))

    @overload
    def to_zarr(
        self,
        path_or_url: Destination,
        converter: ToNumpy[T_co],
        return_stored: Literal[False] = False,
        overwrite: bool = False,
        *,
        executor: Executor | Provider | None = None,
        ranks: Ranks | None = None,
        progress: bool | None = None,
        **options: Unpack[ZarrOptions],
    ) -> None: ...

    @overload
    def to_zarr(
        self,
        path_or_url: Destination,
        converter: ToNumpy[T_co],
        return_stored: Literal[True],
        overwrite: bool = False,
        *,
        executor: Executor | Provider | None = None,
        ranks: Ranks | None = None,
        progress: bool | None = None,
        **options: Unpack[ZarrOptions],
    ) -> StoredArray: ...

    @overload
    def to_zarr(
        self,
        path_or_url: Destination,
        converter: ToNumpy[T_co],
        return_stored: bool = False,
        overwrite: bool = False,
        *,
        executor: Executor | Provider | None = None,
        ranks: Ranks | None = None,
        progress: bool | None = None,
        **options: Unpack[ZarrOptions],
    ) -> StoredArray | None: ...

    @overload
    def to_zarr(
        self: _Sequence[AnyArray, Any],
        path_or_url: Destination,
        converter: None = None,
        return_stored: Literal[False] = False,
        overwrite: bool = False,
        *,
        executor: Executor | Provider | None = None,
        ranks: Ranks | None = None,
        progress: bool | None = None,
        **options: Unpack[ZarrOptions],
    ) -> None: ...

    @overload
    def to_zarr(
        self: _Sequence[AnyArray, Any],
        path_or_url: Destination,
        converter: None = None,
        *,
        return_stored: Literal[True],
        overwrite: bool = False,
        executor: Executor | Provider | None = None,
        ranks: Ranks | None = None,
        progress: bool | None = None,
        **options: Unpack[ZarrOptions],
    ) -> StoredArray: ...

    def to_zarr(
        self,
        path_or_url: Destination,
        converter: ToNumpy[T_co] | None = None,
        return_stored: bool = False,
        overwrite: bool = False,
        *,
        executor: Executor | Provider | None = None,
        ranks: Ranks | None = None,
        progress: bool | None = None,
        **options: Unpack[ZarrOptions],
    ) -> StoredArray | None:
        """Store the blocks as one Zarr array, laid out as ``np.concatenate`` does, or ``np.block``.

        The stored array equals the concatenation of the converted blocks, bitwise, or nothing is
        stored: no block is padded, cast, dropped or overwritten. Blocks are joined along axis 0; in
        a nested sequence, those of a row along axis 1, and the rows along axis 0, where the first
        row's widths hold for all rows.

        Parameters
        ----------
        path_or_url
            A path, a URL, or any zarr store.
        converter
            Its ``to_numpy`` turns a block into a NumPy array; may be left out if blocks are arrays.
        return_stored
            Whether to return the stored array.
        overwrite
            Whether an *array* at the destination may be replaced.
        executor
            Whose workers compute *and* write the blocks of a map-backed sequence, on whole chunks
            (whole shards, where there are shards), as in :meth:`compute`. Then the option
            ``max_in_flight`` bounds the number of tasks.
        ranks
            Processes that all make this call: each computes and writes its share of the blocks, as
            in :meth:`compute`. The first one creates the array and publishes it.
        progress
            As in :meth:`compute`.
        **options
            How the array is laid out: see :class:`~lazychunks.ZarrOptions`.

        Returns
        -------
        zarr.Array or None
            The stored array if ``return_stored``.

        Raises
        ------
        EmptySequenceError, EmptyRowError
            If there is no block, or none in a row.
        BlockShapeError, BlockDTypeError, BlockTypeError
            If a block does not fit the blocks before it, or cannot be stored.
        DestinationExistsError
            If something is at the destination that may not be replaced; before any block is
            computed.
        NotSpreadableError, RankFailedError, RanksDifferError, TypeError
            With an executor or ranks, as in :meth:`compute`.

        Examples
        --------
        >>> import numpy as np
        >>> from lazychunks import IdentityConverter
        >>> sequence = LazyChunkSequence.from_map(lambda i: np.full((2, 3), i), range(4))
        >>> stored = sequence.to_zarr({}, IdentityConverter(), return_stored=True)
        >>> stored.shape
        (8, 3)
        """
        from lazychunks.storage.options import WriteOptions
        from lazychunks.storage.writing.sink import ArraySink

        in_flight = options.get("max_in_flight") if ranks is None else None
        with (
            log_duration(f"{type(self).__name__}.to_zarr"),
            open_runner(executor, ranks, in_flight) as runner,
            self._open(progress, runner) as sequence,
        ):
            options_given = WriteOptions.of(**options)
            sink = ArraySink(path_or_url, choose_converter(converter), overwrite, options_given)
            self._agree(runner, sink=sink)
            stored: StoredArray = run_fold(sink, sequence, self._axes, runner)
        return stored if return_stored else None

    @overload
    def to_zarr_group(
        self: _Sequence[Mapping[str, U], Any],
        path_or_url: Destination,
        converter: ToNumpy[U],
        return_stored: Literal[False] = False,
        overwrite: bool = False,
        *,
        arrays: Mapping[str, ArrayOptions] | None = None,
        coordinates: Coordinates | None = None,
        executor: Executor | Provider | None = None,
        ranks: Ranks | None = None,
        progress: bool | None = None,
        **options: Unpack[ZarrOptions],
    ) -> None: ...

    @overload
    def to_zarr_group(
        self: _Sequence[Mapping[str, U], Any],
        path_or_url: Destination,
        converter: ToNumpy[U],
        return_stored: Literal[True],
        overwrite: bool = False,
        *,
        arrays: Mapping[str, ArrayOptions] | None = None,
        coordinates: Coordinates | None = None,
        executor: Executor | Provider | None = None,
        ranks: Ranks | None = None,
        progress: bool | None = None,
        **options: Unpack[ZarrOptions],
    ) -> StoredGroup: ...

    @overload
    def to_zarr_group(
        self: _Sequence[Mapping[str, AnyArray], Any],
        path_or_url: Destination,
        converter: None = None,
        return_stored: Literal[False] = False,
        overwrite: bool = False,
        *,
        arrays: Mapping[str, ArrayOptions] | None = None,
        coordinates: Coordinates | None = None,
        executor: Executor | Provider | None = None,
        ranks: Ranks | None = None,
        progress: bool | None = None,
        **options: Unpack[ZarrOptions],
    ) -> None: ...

    @overload
    def to_zarr_group(
        self: _Sequence[Mapping[str, AnyArray], Any],
        path_or_url: Destination,
        converter: None = None,
        *,
        return_stored: Literal[True],
        overwrite: bool = False,
        arrays: Mapping[str, ArrayOptions] | None = None,
        coordinates: Coordinates | None = None,
        executor: Executor | Provider | None = None,
        ranks: Ranks | None = None,
        progress: bool | None = None,
        **options: Unpack[ZarrOptions],
    ) -> StoredGroup: ...

    def to_zarr_group(
        self: _Sequence[Mapping[str, U], Any],
        path_or_url: Destination,
        converter: ToNumpy[U] | None = None,
        return_stored: bool = False,
        overwrite: bool = False,
        *,
        arrays: Mapping[str, ArrayOptions] | None = None,
        coordinates: Coordinates | None = None,
        executor: Executor | Provider | None = None,
        ranks: Ranks | None = None,
        progress: bool | None = None,
        **options: Unpack[ZarrOptions],
    ) -> StoredGroup | None:
        """Store blocks that are mappings from names to tensors as one Zarr group of arrays.

        Readers find the old group, nothing, or all arrays of the new one complete. Each array is
        what :meth:`to_zarr` makes of the blocks under its name. They may differ in shape, dtype
        and height, and have the same number of blocks. The group carries consolidated metadata;
        with ``dimension_names``, xarray opens it as a Dataset.

        Parameters
        ----------
        path_or_url, converter, return_stored, executor, ranks, progress
            As in :meth:`to_zarr`.
        overwrite
            Whether a *group that this library wrote* may be replaced, if nothing else is in it.
        arrays
            Options of single arrays (:class:`~lazychunks.ArrayOptions`), by name, which come
            before ``options``.
        coordinates
            Small arrays that are stored whole with the group, such as ids, labels or times. Each
            lies along the dimension of its name, or is a pair of its dimensions and its values.
        **options
            Options of all arrays, and of the run: see :class:`~lazychunks.ZarrOptions`.
            ``attributes`` are those of the group.

        Returns
        -------
        zarr.Group or None
            The stored group if ``return_stored``.

        Raises
        ------
        BlockNamesError
            If a block has other names than the first one, or none, or one that no array can have;
            or if there are options for an array that does not come.
        BlockShapeError, BlockDTypeError, BlockTypeError
            If a block does not fit the blocks before it, or cannot be stored; or if a coordinate
            does not fit its dimension.
        DestinationExistsError
            If something is at the destination that may not be replaced; before any block is
            computed.

        Examples
        --------
        >>> import numpy as np
        >>> from lazychunks import IdentityConverter
        >>> def embed(i):
        ...     return {"embedding": np.full((2, 3), i), "length": np.array([i, i])}
        >>> embedded = LazyChunkSequence.from_map(embed, range(4))
        >>> group = embedded.to_zarr_group({}, IdentityConverter(), return_stored=True)
        >>> group["embedding"].shape, group["length"].shape
        ((8, 3), (8,))
        """
        from lazychunks.storage.group_options import GroupOptions
        from lazychunks.storage.writing.sink import GroupSink

        in_flight = options.get("max_in_flight") if ranks is None else None
        with (
            log_duration(f"{type(self).__name__}.to_zarr_group"),
            open_runner(executor, ranks, in_flight) as runner,
            self._open(progress, runner) as sequence,
        ):
            chosen = GroupOptions.validate(arrays, coordinates, **options)
            sink = GroupSink(path_or_url, choose_converter(converter), overwrite, chosen)
            self._agree(runner, sink=sink)
            stored: StoredGroup = run_fold(sink, sequence, self._axes, runner)
        return stored if return_stored else None

    @property
    def _axes(self) -> int:
        """Number of block axes."""
        return 2 if is_nested(self) else 1

    def _agree(self, runner: Runner | None, **arguments: object) -> None:
        """Refuse calls of several ranks that differ."""
        if isinstance(runner, RankRunner):
            factory = without_progress(self.generator_factory)
            runner.agree(kind=type(self), blocks=self._hint, sequence=factory, **arguments)

    @contextmanager
    def _open(self, progress: bool | None, runner: Runner | None) -> Generator[Self]:
        """Yield the sequence, its blocks moving a progress bar if that is wanted.

        Blocks that are computed ahead are given up if the ``with`` block fails.
        """
        factory = self.generator_factory
        leads = runner is None or runner.peers.leads
        if is_shown(progress) and leads:
            factory = WithProgress(factory, self._hint, self._axes)
        with closing_runs(factory) as opened:
            yield self if opened is self.generator_factory else _copy_with_factory(self, opened)


@_immutable
@dataclass(frozen=True, slots=True, repr=False)
class LazyChunkSequence(_Sequence[T_co, T_co]):
    """A tensor chunked along its first axis, produced block by block, as one immutable value.

    Nothing is computed until it is iterated, computed or stored; each of these generates the
    blocks anew. Equality is by fields; a sequence can be pickled when its factory can.

    Parameters
    ----------
    generator_factory
        Any callable that returns an iterable of blocks, afresh at each call.
    len_generator
        Number of blocks where it is known: a hint that sizes buffers and progress bars. A run
        that ends with another number warns (:class:`~lazychunks.LengthHintWarning`).

    Raises
    ------
    SourceTypeError
        If the factory cannot be called, for instance a generator in place of its function.
    TypeError, ValueError
        If the hint is no integer, or is negative.

    Examples
    --------
    >>> import numpy as np
    >>> sequence = LazyChunkSequence(lambda: (np.full((2, 3), i) for i in range(4)), 4)
    >>> [block.shape for block in sequence.compute(list)]
    [(2, 3), (2, 3), (2, 3), (2, 3)]
    >>> [int(block[0, 0]) for block in sequence.map(lambda block: block + 1)]
    [1, 2, 3, 4]
    """

    _hint_name: ClassVar[str] = "len_generator"

    generator_factory: Callable[[], Iterable[T_co]]
    len_generator: int | None = None

    @classmethod
    def from_map(cls, fn: Callable[[A], U], items: Iterable[A]) -> LazyChunkSequence[U]:
        """Make the map-backed sequence whose block ``i`` is ``fn(item_i)``.

        Its blocks can be skipped, repeated or computed elsewhere without computing the others.

        Parameters
        ----------
        fn
            Computes a block from its item; the same block each time.
        items
            Anything that can be iterated afresh: a range, a list, a DataLoader. Its length, where
            it has one, becomes the length hint.

        Notes
        -----
        To infer the block type of a lambda, mypy needs it named:
        ``LazyChunkSequence[str].from_map(lambda ...)``. A function needs nothing.

        Examples
        --------
        >>> LazyChunkSequence.from_map(abs, [-1, 2]).compute()
        [1, 2]
        """
        return LazyChunkSequence(Mapped(fn, items), known_length(items))

    @overload
    @classmethod
    def from_zarr(
        cls,
        array_or_path: Destination | StoredArray,
        converter: FromNumpy[U],
        *,
        rows: int | None = None,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
        missing: Literal["fill"] | None = None,
    ) -> LazyChunkSequence[U]: ...

    @overload
    @classmethod
    def from_zarr(
        cls,
        array_or_path: Destination | StoredArray,
        converter: None = None,
        *,
        rows: int | None = None,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
        missing: Literal["fill"] | None = None,
    ) -> LazyChunkSequence[AnyArray]: ...

    @classmethod
    def from_zarr(
        cls,
        array_or_path: Destination | StoredArray,
        converter: FromNumpy[Any] | None = None,
        *,
        rows: int | None = None,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
        missing: Literal["fill"] | None = None,
    ) -> LazyChunkSequence[Any]:
        """Make the map-backed sequence of an array's blocks along axis 0, read when asked for.

        The next blocks are read in the background; what :meth:`map` adds is applied where they are
        consumed. The array need not be trusted: its metadata is judged before any chunk is read.

        Parameters
        ----------
        array_or_path
            A ``zarr.Array``, or where it is: a path, a URL, a zarr store, a dict. Zarr 2 or 3.
        converter
            Its ``from_numpy`` makes the blocks; by default they are NumPy arrays.
        rows
            Rows of a block; by default those of a chunk, several chunks if they are small.
        max_chunk_bytes
            Bytes of one chunk, uncompressed, above which the array is refused.
        missing
            This library stores every chunk, so by default it is an error if one is missing from an
            array that it wrote. With ``"fill"``, a missing chunk has the fill value, as it always
            has in arrays of other programs.

        Raises
        ------
        FileNotFoundError
            If there is no array.
        MissingChunkError
            When blocks are read, if a chunk of an array of this library is missing.
        UntrustedArrayError
            If its metadata names codecs or dtypes that are not known to be harmless, larger chunks,
            or more of them in a row than can be read at once; when it is read, also if the file of
            a chunk holds more than that.
        ValueError
            If it has no axis, or ``rows`` is not positive.

        Examples
        --------
        >>> import numpy as np
        >>> from lazychunks import IdentityConverter
        >>> store = {}
        >>> LazyChunkSequence(lambda: [np.arange(5)]).to_zarr(store, IdentityConverter())
        >>> LazyChunkSequence.from_zarr(store, IdentityConverter(), rows=2).compute()
        [array([0, 1]), array([2, 3]), array([4])]

        The array loses its only chunk:

        >>> del store["c/0"]
        >>> LazyChunkSequence.from_zarr(store, IdentityConverter(), missing="fill").compute()
        [array([0, 0, 0, 0, 0])]
        """
        from lazychunks.storage.read import read_flat

        return LazyChunkSequence(
            *read_flat(array_or_path, choose_converter(converter), rows, max_chunk_bytes, missing)
        )

    @overload
    @classmethod
    def from_zarr_group(
        cls,
        group_or_path: Destination | StoredGroup,
        converter: FromNumpy[U],
        *,
        names: Iterable[str] | None = None,
        rows: int | None = None,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
        missing: Literal["fill"] | None = None,
    ) -> LazyChunkSequence[dict[str, U]]: ...

    @overload
    @classmethod
    def from_zarr_group(
        cls,
        group_or_path: Destination | StoredGroup,
        converter: None = None,
        *,
        names: Iterable[str] | None = None,
        rows: int | None = None,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
        missing: Literal["fill"] | None = None,
    ) -> LazyChunkSequence[dict[str, AnyArray]]: ...

    @classmethod
    def from_zarr_group(
        cls,
        group_or_path: Destination | StoredGroup,
        converter: FromNumpy[Any] | None = None,
        *,
        names: Iterable[str] | None = None,
        rows: int | None = None,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
        missing: Literal["fill"] | None = None,
    ) -> LazyChunkSequence[dict[str, Any]]:
        """Make the map-backed sequence of a group's blocks, each a dict, read when asked for.

        By default, blocks are those that the group was written of, or several of them together
        where they are small.

        Parameters
        ----------
        group_or_path
            A ``zarr.Group``, or where it is.
        names
            Which arrays; by default all that :meth:`to_zarr_group` made of blocks.
        rows
            Rows of a block, the same for all arrays.
        converter, max_chunk_bytes, missing
            As in :meth:`from_zarr`.

        Raises
        ------
        FileNotFoundError
            If there is no group, or no array of a name.
        MissingChunkError, UntrustedArrayError
            As in :meth:`from_zarr`.
        ValueError
            If the arrays have different numbers of blocks, or it is not known of which blocks they
            were written, and ``rows`` is not given.

        Examples
        --------
        >>> import numpy as np
        >>> from lazychunks import IdentityConverter
        >>> store = {}
        >>> blocks = [{"a": np.arange(2), "b": np.zeros(1)}, {"a": np.arange(2), "b": np.ones(1)}]
        >>> sequence = LazyChunkSequence(lambda: blocks)
        >>> sequence.to_zarr_group(store, IdentityConverter(), chunks="blocks")
        >>> LazyChunkSequence.from_zarr_group(store, IdentityConverter(), names=["b"]).compute()
        [{'b': array([0.])}, {'b': array([1.])}]
        """
        from lazychunks.storage.read_group import read_flat_group

        return LazyChunkSequence(
            *read_flat_group(
                group_or_path, choose_converter(converter), names, rows, max_chunk_bytes, missing
            )
        )

    def __iter__(self) -> Iterator[T_co]:
        """Generate the blocks.

        Raises
        ------
        SourceTypeError
            If the factory returns an array, text, or something that is not iterable.
        SourceExhaustedError
            If it hands out an iterator that has already run.
        """
        return count_blocks(open_blocks(self.generator_factory), self.len_generator, "blocks")

    def map(self, fn: Callable[[T_co], U]) -> LazyChunkSequence[U]:
        """Return the sequence of ``fn(block)``; map-backed where this one is.

        Examples
        --------
        >>> LazyChunkSequence.from_map(abs, [-1, 2]).map(str).compute()
        ['1', '2']
        """
        return LazyChunkSequence(map_blocks(self.generator_factory, fn), self.len_generator)

    @overload
    def __getitem__(self, index: SupportsIndex) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> LazyChunkSequence[T_co]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> T_co | LazyChunkSequence[T_co]:
        """Compute one block, or return the sequence of some blocks, as a list does.

        Raises
        ------
        SourceTypeError
            If the sequence is not map-backed.
        IndexError
            If there is no such block.

        Examples
        --------
        >>> squares = LazyChunkSequence.from_map(lambda i: i * i, range(10))
        >>> squares[3], squares[-2:].compute()
        (9, [64, 81])
        """
        if isinstance(index, slice):
            factory = slice_blocks(self.generator_factory, [index])
            return LazyChunkSequence(factory, slice_count(self.len_generator, index))
        block: T_co = compute_block(self.generator_factory, [check_integer(index, "an index")])
        return block

    def shuffle(self, seed: int) -> LazyChunkSequence[T_co]:
        """Return the same blocks in an order that depends on their number and the seed only.

        Rows stay within their blocks. ``lazychunks.torch.BlockDataset`` makes batches of rows of
        many blocks.

        Raises
        ------
        SourceTypeError
            If the sequence is not map-backed.
        TypeError, ValueError
            If the seed is no integer, or is negative.

        Examples
        --------
        >>> LazyChunkSequence.from_map(abs, range(6)).shuffle(seed=1).compute()
        [0, 3, 5, 4, 2, 1]
        """
        if check_integer(seed, "seed") < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        return LazyChunkSequence(shuffle_blocks(self.generator_factory, seed), self.len_generator)

    def rebatch(
        self, rows: int, *, sizes: Sequence[SupportsIndex] | None = None
    ) -> LazyChunkSequence[T_co]:
        """Return blocks of ``rows`` rows each (the last may have fewer), in the same order.

        Blocks are arrays, or tuples or mappings of arrays that have the same number of rows.

        Parameters
        ----------
        rows
            Number of rows of each new block.
        sizes
            Number of rows of each block, where you know them. With them, the new sequence can skip
            blocks if this one can; but workers, or a run that goes on, compute a block again for
            each new block that has rows of it. A sequence from :meth:`from_zarr` knows its sizes.

        Raises
        ------
        TypeError, ValueError
            If ``rows`` is no positive integer, or a size is negative.
        BlockShapeError, BlockDTypeError, BlockTypeError
            When iterated: if a block has no rows, another number of them than its size, or does not
            fit those that it is joined with.

        Examples
        --------
        >>> import numpy as np
        >>> LazyChunkSequence.from_map(np.arange, [2, 3, 1]).rebatch(4).compute()
        [array([0, 1, 0, 1]), array([2, 0])]
        """
        known = None if sizes is None else tuple(check_size(size) for size in sizes)
        return LazyChunkSequence(
            *rebatch_blocks(self.generator_factory, check_positive(rows, "rows"), known)
        )


@_immutable
@dataclass(frozen=True, slots=True, repr=False)
class NestedLazyChunkSequence(_Sequence[T_co, list[T_co]]):  # pyright: ignore[reportInvalidTypeArguments]  # a list that compute() makes is nobody else's
    """A tensor chunked along its first two axes, produced row by row of blocks, as one value.

    Iterating gives rows; each row is an iterator over its blocks, to be consumed before the next
    row is asked for.

    Parameters
    ----------
    generator_factory
        Any callable that returns an iterable of iterables of blocks, afresh at each call.
    len_outer_generator
        Number of rows where it is known; a hint, as in :class:`LazyChunkSequence`.

    Raises
    ------
    SourceTypeError
        If the factory cannot be called, for instance a generator in place of its function.
    TypeError, ValueError
        If the hint is no integer, or is negative.

    Examples
    --------
    >>> import numpy as np
    >>> def block(i: int, j: int) -> np.ndarray:
    ...     return np.full((2, 3), 10 * i + j)
    >>> nested = NestedLazyChunkSequence.from_product(block, range(2), range(4))
    >>> np.block(nested.compute()).shape
    (4, 12)
    """

    _hint_name: ClassVar[str] = "len_outer_generator"

    generator_factory: Callable[[], Iterable[Iterable[T_co]]]
    len_outer_generator: int | None = None

    @classmethod
    def from_product(
        cls, fn: Callable[[A, B], U], rows: Iterable[A], columns: Iterable[B]
    ) -> NestedLazyChunkSequence[U]:
        """Make the map-backed sequence whose block ``(i, j)`` is ``fn(row_i, column_j)``.

        Parameters
        ----------
        fn
            Computes a block from the items of its row and its column; the same block each time.
        rows
            Items of the rows. Their number, where it is known, becomes the length hint.
        columns
            Items of the columns; iterated once for each row, hence no one-shot iterator.

        Examples
        --------
        >>> import operator
        >>> NestedLazyChunkSequence.from_product(operator.mul, [1, 2], [3, 4]).compute()
        [[3, 4], [6, 8]]
        """
        return NestedLazyChunkSequence(Product(fn, rows, columns), known_length(rows))

    @overload
    @classmethod
    def from_zarr(
        cls,
        array_or_path: Destination | StoredArray,
        converter: FromNumpy[U],
        *,
        rows: int | None = None,
        columns: int | None = None,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
        missing: Literal["fill"] | None = None,
    ) -> NestedLazyChunkSequence[U]: ...

    @overload
    @classmethod
    def from_zarr(
        cls,
        array_or_path: Destination | StoredArray,
        converter: None = None,
        *,
        rows: int | None = None,
        columns: int | None = None,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
        missing: Literal["fill"] | None = None,
    ) -> NestedLazyChunkSequence[AnyArray]: ...

    @classmethod
    def from_zarr(
        cls,
        array_or_path: Destination | StoredArray,
        converter: FromNumpy[Any] | None = None,
        *,
        rows: int | None = None,
        columns: int | None = None,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
        missing: Literal["fill"] | None = None,
    ) -> NestedLazyChunkSequence[Any]:
        """Make the map-backed sequence of an array's blocks along axes 0 and 1.

        All else is as in :meth:`LazyChunkSequence.from_zarr`; ``columns`` is to axis 1 what
        ``rows`` is to axis 0.
        """
        from lazychunks.storage.read import read_nested

        return NestedLazyChunkSequence(
            *read_nested(
                array_or_path, choose_converter(converter), rows, columns, max_chunk_bytes, missing
            )
        )

    @overload
    @classmethod
    def from_zarr_group(
        cls,
        group_or_path: Destination | StoredGroup,
        converter: FromNumpy[U],
        *,
        names: Iterable[str] | None = None,
        rows: int | None = None,
        columns: int | None = None,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
        missing: Literal["fill"] | None = None,
    ) -> NestedLazyChunkSequence[dict[str, U]]: ...

    @overload
    @classmethod
    def from_zarr_group(
        cls,
        group_or_path: Destination | StoredGroup,
        converter: None = None,
        *,
        names: Iterable[str] | None = None,
        rows: int | None = None,
        columns: int | None = None,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
        missing: Literal["fill"] | None = None,
    ) -> NestedLazyChunkSequence[dict[str, AnyArray]]: ...

    @classmethod
    def from_zarr_group(
        cls,
        group_or_path: Destination | StoredGroup,
        converter: FromNumpy[Any] | None = None,
        *,
        names: Iterable[str] | None = None,
        rows: int | None = None,
        columns: int | None = None,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
        missing: Literal["fill"] | None = None,
    ) -> NestedLazyChunkSequence[dict[str, Any]]:
        """Make the map-backed sequence of a group's blocks along axes 0 and 1, each a dict.

        All else is as in :meth:`LazyChunkSequence.from_zarr_group`.
        """
        from lazychunks.storage.read_group import read_nested_group

        limit = max_chunk_bytes
        return NestedLazyChunkSequence(
            *read_nested_group(
                group_or_path, choose_converter(converter), names, rows, columns, limit, missing
            )
        )

    def __iter__(self) -> Iterator[Iterator[T_co]]:
        """Generate the rows.

        Raises
        ------
        SourceTypeError
            If the factory, or a row, is an array, text, or something that is not iterable.
        SourceExhaustedError
            If the factory, or a row, is an iterator that has already run.
        """
        return count_blocks(open_rows(self.generator_factory), self.len_outer_generator, "rows")

    def map(self, fn: Callable[[T_co], U]) -> NestedLazyChunkSequence[U]:
        """Return the nested sequence of ``fn(block)``; map-backed where this one is."""
        return NestedLazyChunkSequence(
            map_rows(self.generator_factory, fn), self.len_outer_generator
        )

    @overload
    def __getitem__(self, index: SupportsIndex) -> LazyChunkSequence[T_co]: ...
    @overload
    def __getitem__(self, index: slice) -> NestedLazyChunkSequence[T_co]: ...
    @overload
    def __getitem__(self, index: tuple[SupportsIndex, SupportsIndex]) -> T_co: ...
    @overload
    def __getitem__(self, index: tuple[SupportsIndex, slice]) -> LazyChunkSequence[T_co]: ...
    @overload
    def __getitem__(self, index: tuple[slice, SupportsIndex]) -> LazyChunkSequence[T_co]: ...
    @overload
    def __getitem__(self, index: tuple[slice, slice]) -> NestedLazyChunkSequence[T_co]: ...
    def __getitem__(
        self, index: SupportsIndex | slice | tuple[SupportsIndex | slice, SupportsIndex | slice]
    ) -> T_co | LazyChunkSequence[T_co] | NestedLazyChunkSequence[T_co]:
        """Compute one block, or return the sequence of some blocks, by ``[row, column]``.

        A number in the place of a slice drops that block axis, as in NumPy: ``[2]`` and ``[2, :]``
        are the flat sequence of a row, ``[:, 2]`` is that of a column.

        Raises
        ------
        SourceTypeError
            If the sequence is not map-backed.
        IndexError
            If there is no such block; of a row or column, when it is iterated.

        Examples
        --------
        >>> from operator import mul
        >>> table = NestedLazyChunkSequence.from_product(mul, range(1, 5), range(1, 5))
        >>> table[1, 2], table[:2, ::2].compute(), table[:, -1].compute()
        (6, [[1, 3], [2, 6]], [4, 8, 12, 16])
        """
        row, column = index if isinstance(index, tuple) else (index, slice(None))
        factory = self.generator_factory
        if isinstance(row, slice):
            if isinstance(column, slice):
                hint = slice_count(self.len_outer_generator, row)
                return NestedLazyChunkSequence(slice_blocks(factory, [row, column]), hint)
            line = take_line(factory, 1, check_integer(column, "a column"))
            return LazyChunkSequence(line, self.len_outer_generator)[row]
        number = check_integer(row, "a row")
        if isinstance(column, slice):
            line = take_line(factory, 0, number)
            return LazyChunkSequence(line, column_count(factory))[column]
        block: T_co = compute_block(factory, [number, check_integer(column, "a column")])
        return block

    def rows(self, aggregator: Callable[[LazyChunkSequence[T_co]], R]) -> LazyChunkSequence[R]:
        """Return the flat sequence of the aggregated rows, which is map-backed where this one is.

        A row is computed and aggregated when its block is asked for. So the results of rows can be
        stored or reduced further, and no more than one block of the matrix is in memory.

        Parameters
        ----------
        aggregator
            Any callable over a sequence; a fold joins the blocks of a row along axis 1, as in
            :func:`nest`.

        Examples
        --------
        >>> from operator import mul
        >>> NestedLazyChunkSequence.from_product(mul, [1, 2], [3, 4]).rows(sum).compute()
        [7, 14]
        """
        # A fold that reduces axis 1 cannot tell from the blocks that they are those of a row.
        in_rows: Callable[[], Callable[[LazyChunkSequence[T_co]], R]] | None
        in_rows = getattr(aggregator, "in_rows", None)
        fold: FoldRow[R] = FoldRow(aggregator if in_rows is None else in_rows())
        return LazyChunkSequence(fold_rows(self.generator_factory, fold), self.len_outer_generator)


@dataclass(frozen=True, slots=True)
class FoldRow(Generic[R_co]):
    """Aggregates a row of blocks, as a value that can be pickled if the aggregator can."""

    aggregator: Callable[[LazyChunkSequence[Any]], R_co]

    def __call__(self, row: Iterator[Any], count: int | None, /) -> R_co:
        """Aggregate the blocks of a row."""
        # A generator, since it may be empty, and is refused once it has run.
        blocks = (block for block in row)
        return self.aggregator(LazyChunkSequence(lambda: blocks, count))


def sequence_of(blocks: Iterable[object]) -> Any:
    """Return ``blocks`` itself if it is a sequence, else wrap it in one."""
    sequence: Any = blocks
    if not isinstance(blocks, _Sequence):
        sequence = LazyChunkSequence(lambda: blocks)
    return sequence
