"""The life of a write: its arrays appear in one act when all is written, or not at all.

A write is the running pass of a fold. Its blocks are either stepped one by one, or stored by others
part by part, of which it takes the receipts. Either way a
:class:`~lazychunks.storage.writing.part_writer.PartWriter` does the work. What happens at the
destination is up to its place and draft (:mod:`lazychunks.storage.places.protocol`).

Here, a block is one array. :mod:`.group` has the write whose blocks are several.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

from lazychunks.layout.partition import ArrayPlan
from lazychunks.layout.parts import AnyPart
from lazychunks.layout.shapes import Shape
from lazychunks.runs.passes import Ends, PartFold, Probe, Setup, Shelf
from lazychunks.storage.chunks.background import refuse_forked
from lazychunks.storage.chunks.metadata import KEPT_BACK, METADATA, open_array
from lazychunks.storage.options import WriteOptions
from lazychunks.storage.places.in_place import InPlace
from lazychunks.storage.resuming.base import Base, read_base
from lazychunks.storage.resuming.mismatches import mismatch
from lazychunks.storage.resuming.record import names_of_arrays, parse
from lazychunks.storage.resuming.survey import (
    Found,
    survey,
    take_finished,
    take_unfinished,
    tidy_after_commit,
)
from lazychunks.storage.resuming.unfinished import count_done
from lazychunks.storage.writing.failure import Failure
from lazychunks.storage.writing.member import Member
from lazychunks.storage.writing.part_writer import PartWriters, Receipt
from lazychunks.storage.writing.refusals import (
    check_append,
    check_can_resume,
    check_listing,
    check_workers,
)

if TYPE_CHECKING:
    from lazychunks.converters import ToNumpy
    from lazychunks.storage.keys import Keys
    from lazychunks.storage.places.protocol import Draft, Place

T = TypeVar("T")

_logger = logging.getLogger("lazychunks")


class Write(Generic[T]):
    """One start of a write.

    Nothing at the destination changes before :meth:`begin`, which follows the first block. Leaving
    the ``with`` block by an exception waits for writes under way, and removes what was written,
    unless the run has a name and can be resumed.

    Parameters
    ----------
    place
        The destination.
    converter, overwrite
        As in ``to_zarr``.
    options
        Validated options.
    counts
        Number of blocks along each block axis, where it is known.
    """

    def __init__(
        self,
        place: Place,
        converter: ToNumpy[T],
        overwrite: bool,
        options: WriteOptions,
        counts: tuple[int | None, ...],
    ) -> None:
        self.place: Place = place
        self._draft: Draft = place.draft(overwrite=overwrite)
        self._converter = converter
        self._overwrite = overwrite
        self._options = options
        self._counts = counts
        self.setup: Setup = Setup()
        self.before: Callable[[Any], Any] | None = None
        self.is_behind_a_fold = False
        self._members: dict[str, Member[T]] = {}
        """The arrays by name, once their names are known; a single array has no name."""
        self._stored: Any = None
        """The array, or the group, once readers see it."""
        self._has_begun = False
        self._stack = ExitStack()
        self._process = os.getpid()

    # --- the pass of a fold --------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Lock the destination, and look at it.

        Raises
        ------
        DestinationExistsError, DestinationReadOnlyError, DestinationBusyError
            If the destination may not, or cannot, be written.
        ResumeMismatchError, NotResumableError, NotSpreadableError
            If the pass cannot go on with an earlier start, or workers cannot do it.
        AppendMismatchError, UntrustedArrayError
            If rows cannot be appended to the array that is there.
        ValueError
            If ``sizes=`` is not for this kind of sequence.
        """
        options, setup, name = self._options, self.setup, str(self.place)
        check_append(options, overwrite=self._overwrite)
        check_listing(options.sizes, len(self._counts))
        self._members = self._first_members()
        can_be_kept = self._draft.can_be_kept
        check_can_resume(
            name, options, setup, self._converter, self.before, can_be_kept=can_be_kept
        )
        with ExitStack() as stack:
            found = setup.peers.once(partial(self._look, stack))
            check_workers(name, setup, is_seen_by_processes=self.place.is_seen_by_processes)
            if isinstance(found, Base):
                self._append_to(found)
            elif found == "finished":
                self._return_to_finished()
            elif found == "unfinished":
                self._go_on()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        if os.getpid() != self._process:
            return  # a block forked, and this is the child: what is under way is its parent's
        with self._stack:
            failure = error
            try:
                with ExitStack() as stack:  # each is closed, whatever comes of closing another
                    stack.callback(self._close_threads)
                    for member in self._members.values():
                        if member.writer is not None:
                            stack.push(member.writer.__exit__)
                    if self._draft.is_committed:
                        stack.close()  # nothing is kept for another start
                    else:
                        stack.__exit__(kind, error, traceback)
            except BaseException as interrupt:
                failure = interrupt
                raise
            finally:
                if failure is not None and self._has_begun:
                    self._give_up(failure)

    @property
    def sinks(self) -> Sequence[Write[Any]]:
        """The write itself: a pass that shows something to others, and so finishes last."""
        return (self,)

    def step(self, block: Any, /) -> None:
        """Take the next block; its memory may be reused as soon as this returns."""
        member = self._member
        if member.writer is not None:
            member.writer.step(block)
        elif member.target is not None or member.is_finished:
            member.step(block)
        else:
            array = member.probe().convert(block)
            self.begin((array.shape, array.dtype))
            member.write_all().add(array)

    def end_row(self) -> None:
        """Close a row of blocks; the first one fixes the width of the array."""
        for member in self._members.values():
            member.end_row()

    def absorb(self, receipt: Any, part: AnyPart, /) -> None:
        """Take the receipt of a part that has been stored elsewhere, or else its blocks."""
        if not isinstance(receipt, Receipt):
            for block in chain.from_iterable(receipt):  # of one row, inside of nest()
                self.step(block)
        else:
            self._member.absorb(receipt, part)

    def prepare(self) -> None:
        """Do what may fail before publishing. It is harmless to call this twice.

        It is noted that all is written. So, if several arrays are written at a time and a kill
        comes between the first publishing and the last, the next start computes nothing.
        """
        refuse_forked(self._process)
        for member in self._members.values():
            member.prepare()

    def finish(self) -> Any:
        """Write what is left, and publish."""
        if self._stored is None:
            self.prepare()
            peers = self.setup.peers
            peers.meet()  # one that has failed keeps the array from appearing
            documents, durable = self._make_documents(), self._options.durable
            peers.once(partial(self._draft.commit, documents, durable=durable))
            self._stored = self._open_stored()
        return self._stored

    # --- as a driver of passes sees it ---------------------------------------------------------

    @property
    def resumes(self) -> bool:
        """Whether it was asked to go on with an earlier start."""
        return self._options.resume

    @property
    def is_finished(self) -> bool:
        """Whether an earlier start has stored everything; perhaps only publishing is left."""
        members = self._members.values()
        return len(members) > 0 and all(member.is_finished for member in members)

    @property
    def shelf(self) -> Shelf | None:
        """What an earlier start has stored."""
        return self._member.shelf

    def has(self, index: Shape, is_last: Ends) -> bool:
        """Whether a block is stored, by what is known now: more than when the pass began."""
        return self._member.target is not None and self._member.target.has(index, is_last)

    def read_block(self, index: Shape, is_last: Ends) -> Any:
        """Read back a block that is stored."""
        return self._member.known_target.read_block(index, is_last)

    def compare(self, index: Shape, is_last: Ends, block: Any) -> None:
        """Refuse a block that is not the one that is stored."""
        self._member.known_target.compare(index, is_last, block)

    @property
    def plans(self) -> Sequence[ArrayPlan]:
        """Where blocks lie in each array, once the first of them is known."""
        return [member.plan for member in self._members.values() if member.plan is not None]

    @property
    def stores_parts(self) -> bool:
        """Whether workers store blocks; inside of nest() they do not, where rows do not begin."""
        return len(self.plans) > 0 and not (self.is_finished and self.shelf is None)

    def for_parts(self) -> PartFold[Any]:
        """Return what stores parts; its target is None before the first block."""
        target: Any = self._member.target
        return PartWriters(target)

    def is_open_at(self, part: AnyPart, /) -> bool:
        """Whether a part has the end of an axis, and it is not known yet where that lies."""
        return any(member.is_open_at(part) for member in self._members.values())

    def probe(self) -> Probe:
        """Return what tells :meth:`begin` about the first block."""
        return self._member.probe()

    def check_counts(self, count: Callable[[], Shape], /) -> None:
        """Refuse to go on where the sequence has another number of blocks than it had."""
        for member in self._members.values():
            member.check_counts(count)

    def begin(self, found: Any, /) -> None:
        """Start to write, with what :meth:`probe` tells of the first block: shape and dtype."""
        document = self._member.begin(*found)
        self._begin_draft({"": document})

    # --- inside --------------------------------------------------------------------------------

    @property
    def _member(self) -> Member[T]:
        """The only array."""
        return self._members[""]

    def _first_members(self, base: Base | None = None) -> dict[str, Member[T]]:
        """Return the arrays that are known before the first block."""
        name, draft, converter = str(self.place), self._draft, self._converter
        return {
            "": Member(name, draft, converter, self._options, self._counts, self.setup, base=base)
        }

    def _noted_members(self, where: Keys, key: str) -> dict[str, Member[T]]:
        """Return the arrays that an earlier start has noted under a key.

        Raises
        ------
        ResumeMismatchError
            If it has stored a group.
        """
        if names_of_arrays(parse(where.read(key))):
            raise mismatch(f"at {self.place}, what is stored", "kind", "a group", "an array")
        return self._first_members()

    @property
    def _known_counts(self) -> tuple[int | None, ...]:
        return next((member.counts for member in self._members.values()), self._counts)

    @property
    def _keeps(self) -> bool:
        """Whether a failed start leaves what the next one can go on with."""
        return all(member.keeps for member in self._members.values())

    def _close_threads(self) -> None:
        """Wait until nothing is written any more: the only array has waited for its own threads."""

    def _begin_draft(self, documents: Mapping[str, bytes]) -> None:
        refuse_forked(self._process)
        self._has_begun = True
        self.setup.peers.once(partial(self._draft.begin, documents))

    def _look(self, stack: ExitStack) -> Base | Literal["finished", "unfinished"] | None:
        """Lock the destination until ``stack`` is left, and look at it."""
        stack.enter_context(self.place.lock())
        if self._options.append:
            base = read_base(self.place, self._options, len(self._counts))
            if base is not None:
                return base
        return survey(self.place, self._draft, self._options, overwrite=self._overwrite)

    def _append_to(self, base: Base) -> None:
        """Append to an array, unless an earlier start of this run has."""
        draft = InPlace(self.place, base.metadata)
        self._draft = draft
        self._members = self._first_members(base)
        if base.done is not None:
            self.setup.peers.once(partial(draft.tidy_after, base.done.run_id))
            _logger.info("run %r has been appended to %s before", base.done.run_id, self.place)
            self._stored = self._open_stored()

    def _return_to_finished(self) -> None:
        """Compare with what an earlier start has published, and return to it."""
        peers, run_id = self.setup.peers, self._options.run_id
        where, keys = self.place.in_store(read_only=True), peers.once(self.place.keys)
        self._members = self._noted_members(where, METADATA)
        for name, member in self._members.items():
            listed = None if keys is None else list_below(name, keys)
            found = take_finished(
                where.below(name), listed, member.options, self._counts, member.name
            )
            member.take_up(found, is_published=True)
        peers.once(partial(tidy_after_commit, self._draft, run_id))
        _logger.info("%s was finished by an earlier start of run %r", self.place, run_id)
        self._stored = self._open_stored()

    def _go_on(self) -> None:
        """Go on with what an earlier start has left, unless it died before anything was stored."""
        self._members = self._noted_members(self._draft.where, KEPT_BACK)
        found = self.setup.peers.once(self._take_unfinished)
        for name, member in self._members.items():
            one = found[name]
            if one is None:  # then nothing is stored of the others either
                self._members = self._first_members()
                return
            member.take_up(one, is_published=False)
        self._has_begun = True

    def _take_unfinished(self) -> Mapping[str, Found | None]:
        """Tidy up what an earlier start has left, and return what there is of each array."""
        where, keys = self._draft.where, tuple(self._draft.keys(tidy=True))
        return {
            name: take_unfinished(
                where.below(name),
                list_below(name, keys),
                member.options,
                self._counts,
                member.name,
            )
            for name, member in self._members.items()
        }

    def _make_documents(self) -> Mapping[str, bytes]:
        """Return the metadata that readers will see."""
        return {"": self._member.make_document(keeps_sizes=False)}

    def _open_stored(self) -> Any:
        return open_array(self.place.in_store(read_only=False), self._member.notes.document)

    # --- failures ------------------------------------------------------------------------------

    def _give_up(self, error: BaseException) -> None:
        """Leave the destination as it was, and say how to go on."""
        if self._draft.is_committed or self._stored is not None:
            error.add_note(f"{self.place} is stored: this failed afterwards")
            return
        taken = max(member.taken for member in self._members.values())
        keeps, leads = self._keeps, self.setup.peers.leads
        failure = Failure(
            str(self.place),
            done=self._count_done() if keeps and leads else taken,
            taken=taken,
            counts=self._known_counts,
            run_id=self._options.run_id if keeps else None,
            has_stored=taken > 0 or self._is_there(),
            is_removed=not keeps and self._discard() if leads else None,
            appends=isinstance(self._draft, InPlace),
        )
        failure.report(error)

    def _is_there(self) -> bool:
        """Whether anything of this write is at the destination, as far as that can be told."""
        with contextlib.suppress(Exception):  # the failure of the write is what counts
            return self._draft.exists()
        return True

    def _count_done(self) -> int | None:
        """Count the blocks that the next start does not compute."""
        with contextlib.suppress(Exception):  # the failure of the write is what counts
            members = self._members.values()
            return count_done([member.look_again() for member in members], self._known_counts)
        return None

    def _discard(self) -> bool:
        """Remove what was written; whether nothing of it remains."""
        with contextlib.suppress(Exception):  # the failure of the write is what counts
            self._draft.discard()
            return self._draft.supports_deletes and not self._draft.exists()
        return False


def list_below(name: str, keys: Collection[str]) -> Collection[str]:
    """Return the keys below a name, relative to it; those below no name are all of them."""
    if not name:
        return keys
    return [key.removeprefix(f"{name}/") for key in keys if key.startswith(f"{name}/")]
