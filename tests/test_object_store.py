"""The promises, kept in an object store: S3, as moto plays it on this machine.

Needs obstore and moto; s3fs for its own rows.
"""

import os
import uuid
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazychunks import (
    DestinationExistsError,
    IdentityConverter,
    LazyChunkSequence,
    NestedLazyChunkSequence,
    WriteAbortedError,
    ZarrOptions,
    concatenate,
    nested_concatenate,
)
from tests.benchmarks import layouts
from tests.executors import Shuffling
from tests.faults.jobs import FLAT, JOBS, ZARR, Job, old_array, same, seen_at
from tests.faults.processes import CONTEXT, die, died_by_sigkill
from tests.object_store import MISSING, Server, accept_all, forget_clients, started

PAGE = Path(__file__).parents[1] / "docs" / "chunks.md"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


def by_obstore(path: str) -> Any:
    """Return a store of obstore, which does not try again what has failed."""
    stores: Any = import_module("obstore.store")
    bucket, _, prefix = path.partition("/")
    return ZARR.storage.ObjectStore(
        stores.S3Store(bucket, prefix=prefix, retry_config={"max_retries": 0})
    )


def by_s3fs(path: str) -> Any:
    return ZARR.storage.FsspecStore.from_url(f"s3://{path}", storage_options={"asynchronous": True})


def by_url(path: str) -> Any:
    return f"s3://{path}"


Place = Callable[[], Any]

KINDS: dict[str, Callable[[str], Any]] = {"obstore": by_obstore, "s3fs": by_s3fs, "URL": by_url}


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    with started() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.settings.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(autouse=True)
def _sessions_end() -> Generator[None]:
    """Close what s3fs keeps open for as long as the process lives; a test must leave nothing."""
    yield
    forget_clients()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param != "obstore" and find_spec("s3fs") is None:
        pytest.skip("not installed: s3fs")
    return str(request.param)


@pytest.fixture
def path(server: Server) -> Generator[str]:
    """A place in a bucket of the test's own."""
    bucket = f"bucket-{uuid.uuid4()}"
    server.make_bucket(bucket)
    server.counted()
    yield f"{bucket}/some/array.zarr"
    server.refuses = accept_all


@pytest.fixture
def place(kind: str, path: str) -> Place:
    """Make a store of the kind for the place, anew at each call."""
    return lambda: KINDS[kind](path)


def seen(path: str) -> Any:
    """What another program sees there."""
    return seen_at(by_obstore(path))


def failing_after(count: int) -> Callable[..., None]:
    """Let so many blocks be computed, and no more."""
    left = iter(range(count))

    def watch(*_: int) -> None:
        if next(left, None) is None:
            raise ZeroDivisionError

    return watch


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_what_is_stored_is_the_concatenation_and_comes_back(
    job: Job, place: Place, path: str
) -> None:
    job.store(place())
    assert same(seen(path), job.whole)
    converter = IdentityConverter()
    if job.widths is None:
        again = LazyChunkSequence.from_zarr(place(), converter).compute(concatenate())
    else:
        rows = NestedLazyChunkSequence.from_zarr(place(), converter)
        again = rows.compute(nested_concatenate())
    assert same(again, job.whole)


def test_metadata_comes_when_all_chunks_are_there(place: Place, server: Server) -> None:
    FLAT.store(place())
    put = [request.key for request in server.counted() if request.method == "PUT"]
    first, *others, last = [key.removeprefix("some/array.zarr/") for key in put]
    assert (first, last) == ("zarr.json.partial", "zarr.json")
    assert set(others) == {*(f"c/{number}/0" for number in range(5)), "zarr.json.partial"}


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_failed_run_shows_nothing_and_goes_on(job: Job, place: Place, path: str) -> None:
    with pytest.raises(WriteAbortedError) as caught:
        job.store(place(), failing_after(4), run_id="run", max_in_flight=1)
    assert caught.value.resumable
    assert seen(path) is None
    computed: list[tuple[int, ...]] = []
    job.store(place(), lambda *start: computed.append(start), run_id="run", resume=True)
    assert same(seen(path), job.whole)
    assert 0 < len(computed) < job.count
    job.store(place(), failing_after(0), run_id="run", resume=True)  # nothing is left to compute


def write_until_killed(kind: str, path: str, settings: dict[str, str]) -> None:
    os.environ.update(settings)

    def watch(start: int) -> None:
        if start == 12:
            die()

    FLAT.store(KINDS[kind](path), watch, run_id="run", max_in_flight=1)


def test_a_killed_run_goes_on(kind: str, path: str, server: Server) -> None:
    process = CONTEXT.Process(target=write_until_killed, args=(kind, path, server.settings))
    process.start()
    assert died_by_sigkill(process)
    assert seen(path) is None
    computed: list[int] = []
    FLAT.store(KINDS[kind](path), computed.append, run_id="run", resume=True)
    assert same(seen(path), FLAT.whole)
    assert computed[0] == 0, "a stored block is computed again, to compare"
    # One write was under way, and one waited for its turn.
    assert computed[1:] in ([4, 8, 12, 16], [8, 12, 16], [12, 16])


def test_only_an_array_is_replaced_and_nobody_sees_a_mixture(place: Place, path: str) -> None:
    old = old_array(by_obstore(path))
    with pytest.raises(DestinationExistsError):
        FLAT.store(place())
    assert same(seen(path), old)
    meanwhile: list[Any] = []

    def look(_: int) -> None:
        meanwhile.append(seen(path))

    FLAT.store(place(), look, overwrite=True)
    assert same(meanwhile[0], old), "until the first block has come, nothing changes"
    assert all(what is None for what in meanwhile[1:])
    assert same(seen(path), FLAT.whole)


def test_what_is_no_array_is_refused(place: Place, path: str, server: Server) -> None:
    group = ZARR.create_group(by_obstore(path))
    group.create_array("inner", data=FLAT.whole)
    server.counted()
    with pytest.raises(DestinationExistsError, match="group"):
        FLAT.store(place(), overwrite=True)
    assert {request.method for request in server.counted()} <= {"GET", "HEAD"}


def test_a_store_that_fails_leaves_a_run_that_goes_on(path: str, server: Server) -> None:
    server.refuses = lambda method, key: method == "PUT" and key.endswith("/c/2/0")
    with pytest.raises(WriteAbortedError, match="run_id='run' goes on from here"):
        FLAT.store(by_obstore(path), run_id="run")
    assert seen(path) is None
    server.refuses = accept_all
    FLAT.store(by_obstore(path), run_id="run", resume=True)
    assert same(seen(path), FLAT.whole)


def test_workers_write_their_own_blocks(path: str) -> None:
    with ThreadPoolExecutor(2) as executor:
        FLAT.store(by_obstore(path), executor=executor)
    assert same(seen(path), FLAT.whole)


def test_a_chunk_of_a_shard_is_read_alone(path: str, server: Server) -> None:
    rows = LazyChunkSequence.from_map(lambda n: np.full((4, 512), n), range(16))
    rows.to_zarr(by_obstore(path), IdentityConverter(), chunks="blocks", shards=(64, 512))
    written = server.counted()
    assert sum(request.method == "PUT" and "/c/" in request.key for request in written) == 1
    array = ZARR.open_array(by_obstore(path), mode="r")
    server.counted()
    assert (array[5] == 1).all()
    read = sum(request.sent for request in server.counted())
    assert 0 < read < rows.compute(concatenate()).nbytes / 16


def test_the_page_on_chunks_has_the_counts_that_are_measured(server: Server) -> None:
    server.make_bucket("results")
    measured = layouts.counts(server)
    assert measured in PAGE.read_text(), f"docs/chunks.md must have\n{measured}"


@pytest.mark.parametrize(("options", "to_look"), [({}, 1), ({"shards": (4, 4)}, 2)])
def test_a_worker_makes_the_requests_that_the_guide_counts(
    server: Server, path: str, options: ZarrOptions, to_look: int
) -> None:
    """For each object: one to put it, one to see that the run goes on, one to look for a shard."""
    layout: ZarrOptions = {"chunks": (2, 4) if options else "blocks", **options}
    made: list[Counter[str]] = []
    for count in (5, 15):
        sequence = LazyChunkSequence.from_map(partial(np.full, (4, 4)), range(count))
        place = by_obstore(f"{path}/{count}")
        server.counted()
        with Shuffling() as executor:
            sequence.to_zarr(place, IdentityConverter(), executor=executor, **layout)
        made.append(Counter(request.method for request in server.counted()))
    assert made[1] - made[0] == {"PUT": 10, "GET": 10 * to_look}
