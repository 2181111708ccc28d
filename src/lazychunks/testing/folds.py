"""The laws of a fold, flat and nested."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

import hypothesis
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from lazychunks.folds.fold import AnyFold, AnyPass, Fold, NestedFold
from lazychunks.folds.tee import tee
from lazychunks.testing.aggregators import (
    AGGREGATOR_LAWS,
    END_OF_ROW,
    Block,
    Blocks,
    Result,
    Rows,
)
from lazychunks.testing.comparing import twin
from lazychunks.testing.laws import BrokenError, Law, expect, find_counterexample
from lazychunks.testing.parts import (
    EVERYWHERE,
    RunPart,
    fold_in_parts,
    run_part,
    run_part_elsewhere,
)
from lazychunks.testing.strategies import WAYS

T = TypeVar("T")
R = TypeVar("R")


def check_fold(
    fold: Fold[T, R],
    blocks: SearchStrategy[Sequence[T]],
    oracle: Callable[[list[T]], R] | None = None,
    *,
    same: Callable[[R, R], bool] | None = None,
    pickles: bool = True,
    settings: hypothesis.settings | None = None,
) -> None:
    """Check that a fold is a value: its passes share nothing, and keep nothing of their blocks.

    Laws, by name, beside those of :func:`check_aggregator`:

    - *separate passes*: two passes at the same time do not disturb each other.
    - *reused memory*: a block's memory may be reused as soon as ``step`` has returned.
    - *tee*: ``tee(f, f)(blocks)`` is ``(f(blocks), f(blocks))``.
    - *then*: ``f.then(h)(blocks)`` is ``h(f(blocks))``, and ``f.contramap(g)(blocks)`` is that of
      ``g(block)`` for each block.
    - *giving up*: a pass that is left by an exception lets it through, and the next pass is as
      good as ever.
    - *pickling*: a copy that was pickled gives the same result.
    - *parts*: if the blocks are cut into parts, and the state of each part makes the way to another
      process and back, the result is that of one pass, wherever the cuts are.

    A fold that leaves something outside, as a sink does, keeps no law of two passes, and is not for
    this function.

    Parameters
    ----------
    fold
        What to check.
    blocks
        What to draw the blocks of a sequence from.
    oracle
        Gives the right result for a list of blocks; without it, the fold is compared with itself.
    same
        Compares results; by default by their :func:`~lazychunks.testing.bits`.
    pickles
        Whether the fold, its blocks and its states can be pickled. A lambda cannot.
    settings
        How to look for examples; by default as Hypothesis is set up, without a deadline.

    Raises
    ------
    LawBrokenError
        If a law is broken. What the fold itself raises is raised as it is.

    Examples
    --------
    >>> import numpy as np
    >>> from lazychunks import total
    >>> from lazychunks.testing import dtypes, flat_blocks
    >>> whole = flat_blocks(dtypes("f", bfloat16=False), values="whole")
    >>> check_fold(total(), whole, lambda blocks: np.concatenate(blocks).sum(0))
    """
    case = partial(Blocks, fold, oracle, same)
    find_counterexample(_laws(pickles=pickles), case, fold, settings, blocks=blocks, **_WAYS)


def check_nested_fold(
    fold: NestedFold[T, R],
    rows: SearchStrategy[Sequence[Sequence[T]]],
    oracle: Callable[[list[list[T]]], R] | None = None,
    *,
    same: Callable[[R, R], bool] | None = None,
    pickles: bool = True,
    settings: hypothesis.settings | None = None,
) -> None:
    """Check a fold over rows of blocks; all is as in :func:`check_fold`.

    Examples
    --------
    >>> import numpy as np
    >>> from lazychunks import nested_concatenate
    >>> from lazychunks.testing import nested_blocks
    >>> check_nested_fold(nested_concatenate(), nested_blocks(max_ndim=2), np.block)
    """
    case = partial(Rows, fold, oracle, same)
    find_counterexample(_laws(pickles=pickles), case, fold, settings, blocks=rows, **_WAYS)


def _feed(running: AnyPass, blocks: Iterable[Block]) -> None:
    for block in blocks:
        if block is END_OF_ROW:
            running.end_row()
        else:
            running.step(block)


def _separate_passes(case: Blocks) -> None:
    with case.start() as one, case.start() as other:
        for block in case.steps():
            _feed(one, [block])
            _feed(other, [block])
        # The first pass sees all blocks twice: if both share a state, the second result shows it.
        _feed(one, case.steps())
        case.expect(other.finish(), "a pass is disturbed by another one at the same time")


def _reused_memory(case: Blocks) -> None:
    # With zeros only, a sum of blocks that are kept might be right by chance.
    for number in (0, 1):
        with case.start() as running:
            for block in case.steps():
                own = block if block is END_OF_ROW else twin(block)
                _feed(running, [own])
                _spoil(own, number)
            case.expect(running.finish(), f"blocks were filled with {number} after their step")


def _spoil(block: Block, number: int) -> None:
    components: Block = block
    if isinstance(block, tuple):
        for component in components:
            _spoil(component, number)
    elif hasattr(block, "shape") and hasattr(block, "__setitem__"):
        block[...] = number
    elif isinstance(block, list | dict | set | bytearray):
        block.clear()


def _tee(case: Blocks) -> None:
    one, other = case.run(tee(case.aggregator, case.aggregator))
    case.expect(one, "the first result of a tee is another one")
    case.expect(other, "the second result of a tee is another one")


def _then(case: Blocks) -> None:
    fold: AnyFold = case.aggregator
    # Nested folds have neither method.
    if isinstance(case.aggregator, Fold):
        # Not the identity: then() could forget to call it.
        _, result = case.run(fold.then(_pair))
        case.expect(result, "then() gives another result")
        case.expect(case.run(fold.contramap(twin)), "contramap() gives another result")


def _pair(result: Result) -> tuple[None, Result]:
    return None, result


def _giving_up(case: Blocks) -> None:
    taken = sum(1 for _ in case.steps())
    for error in (RuntimeError("of a producer"), KeyboardInterrupt()):
        # Before the first block, between two, and after the last one.
        for number in (0, taken // 2, taken):
            _give_up(case, number, error)
            case.expect(case.run(), f"the result is another one after {error!r}")


def _give_up(case: Blocks, number: int, error: BaseException) -> None:
    try:
        with case.start() as running:
            _feed(running, islice(case.steps(), number))
            raise error  # noqa: TRY301  # as what makes the blocks does
    except BaseException as raised:
        # A sink explains what is left behind in an error of its own, which names this one.
        if error in (raised, raised.__cause__):
            return
        raise
    raise BrokenError(f"leaving a pass has swallowed {error!r}")


def _pickling(case: Blocks) -> None:
    try:
        copied: Result = pickle.loads(pickle.dumps(case.aggregator))  # noqa: S301  # our own
    except Exception as error:
        raise BrokenError(f"{error!r}; pass pickles=False if it need not") from error
    case.expect(case.run(copied), "a copy gives another result")


def _parts(case: Blocks, run: RunPart) -> None:
    # The result of one pass, not of the oracle: bits count even where the oracle is only close.
    expected = case.run()
    for cuts in (case.cuts, ((), ()), (EVERYWHERE, EVERYWHERE)):
        result = fold_in_parts(case.aggregator, case.cut(cuts), case.counts, run)
        expect(result, expected, f"cut into parts at {cuts}, the result is another one", case.same)


# Strategies draw five or six blocks along an axis; cuts that are beyond its end do nothing.
_WAYS = WAYS | {"cuts": st.tuples(*[st.lists(st.integers(1, 5), max_size=3)] * 2)}
"""How blocks come, and who folds them."""


def _laws(*, pickles: bool) -> list[Law]:
    laws = [
        *AGGREGATOR_LAWS,
        Law("separate passes", "two passes at a time do not disturb each other", _separate_passes),
        Law("reused memory", "a block's memory may be reused after its step", _reused_memory),
        Law("tee", "tee(f, f)(blocks) is (f(blocks), f(blocks))", _tee),
        Law("then", "f.then(h)(blocks) is h(f(blocks)), and contramap alike", _then),
        Law(
            "giving up",
            "a pass left by an exception lets it through, and holds nothing",
            _giving_up,
        ),
    ]
    # Before the parts, which are pickled as well: "cannot be pickled" is then what is said.
    if pickles:
        laws.append(Law("pickling", "a copy that was pickled gives the same result", _pickling))
    run = run_part_elsewhere if pickles else run_part
    return [
        *laws,
        Law("parts", "the states of parts make the same result", partial(_parts, run=run)),
    ]
