"""The command line, ``python -m lazychunks``: look at an array, or at an unfinished write.

``status`` tells what is at a path and how far it is, ``verify`` reads every chunk. The exit code
says what was found, ``--json`` prints all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from lazychunks.layout.plan import MAX_CHUNK_BYTES

if TYPE_CHECKING:
    from lazychunks.storage import Status, Verification

FAILED = 1
DAMAGED = 5
CLOSED = 128 + 13  # as a shell has it for what SIGPIPE ended
CODES = {"complete": 0, "unfinished": 3, "absent": 4}  # argparse itself exits with 2

_EPILOG = """\
exit codes:
  0  complete: there is an array (verify: and its chunks are sound)
  1  it cannot be told: there is a group, metadata are refused, or reading failed
  2  the command line is wrong
  3  unfinished: there is an unfinished write (verify: and no array)
  4  absent: there is no array, but perhaps a file, or a directory of something else
  5  damaged (verify): chunks cannot be read, or have been lost
"""

_NAMED = 20
"""Number of bad chunks that are named; JSON has all of them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code.

    Examples
    --------
    >>> main(["status", "nowhere.zarr"])
    absent: there is no array at nowhere.zarr
    4
    """
    options = _parser().parse_args(arguments)
    try:
        code, found, lines = (_status if options.command == "status" else _verify)(options)
    except (ImportError, OSError, ValueError) as error:  # the library's are among them
        print(_printable(f"error: {error}"), file=sys.stderr)
        return FAILED
    text = json.dumps(found) if options.json else "\n".join(map(_printable, lines))
    try:
        print(text, flush=True)
    except BrokenPipeError:  # who reads has enough, and no more is to be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lazychunks",
        description="Look at a Zarr array, or at an unfinished write. Nothing is changed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    status = commands.add_parser("status", help="what is there, and how far it is")
    verify = commands.add_parser("verify", help="read every chunk, against its checksum")
    for command in (status, verify):
        command.add_argument("path", help="a path, or a URL")
        command.add_argument("--json", action="store_true", help="print a JSON object")
    verify.add_argument(
        "--max-chunk-bytes",
        type=int,
        default=MAX_CHUNK_BYTES,
        metavar="N",
        help="refuse an array with larger chunks (default: %(default)s)",
    )
    return parser


Found = tuple[int, dict[str, Any], Iterator[str]]
"""Exit code, and what was found: for a program, and for a person."""


def _status(options: argparse.Namespace) -> Found:
    from lazychunks.storage import status

    found = status(options.path)
    return CODES[found.state], asdict(found), _about(found)


def _verify(options: argparse.Namespace) -> Found:
    from lazychunks.storage import verify

    try:
        found = verify(options.path, max_chunk_bytes=options.max_chunk_bytes)
    except FileNotFoundError:
        return _status(options)
    code = CODES["complete"] if found.is_sound else DAMAGED
    return code, {**asdict(found), "is_sound": found.is_sound}, _about_chunks(found)


def _about(found: Status) -> Iterator[str]:
    if found.state == "absent":
        yield f"absent: there is no array at {found.place}"
    elif found.state == "complete":
        yield f"complete: {found.place}"
    else:
        yield f"unfinished: {found.place}, {_progress(found)}"
    if found.shape is not None:
        lengths = ["?" if length is None else str(length) for length in found.shape]
        yield _fact("shape", f"({', '.join(lengths)}{',' * (len(lengths) == 1)})")
    for name in ("dtype", "chunks", "shards", "run_id"):
        value = getattr(found, name)
        if value is not None:
            yield _fact(name, value if name == "dtype" else repr(value))
    for name, size in (("values", found.nbytes), ("stored", found.stored_bytes)):
        if size is not None:
            yield _fact(name, f"{size:,} bytes")
    if found.state == "unfinished":
        if found.run_id is not None:
            yield "It goes on with the same call, its run_id, and resume=True."
        if found.is_published:
            yield "Until it is complete, readers see the array that was there before."
    if found.set_aside is not None:
        yield f"The array that was there is at {found.set_aside}: the next write puts it back."


def _progress(found: Status) -> str:
    if found.is_written:
        return "all blocks are done, only publishing is left"
    if found.done_blocks is None:
        return "of which it is not known how many blocks are done"
    return f"{found.done_blocks} of {found.blocks or 'an unknown number of'} blocks are done"


def _about_chunks(found: Verification) -> Iterator[str]:
    lost = found.missing if found.misses_none else 0
    if found.is_sound:
        yield f"sound: {found.place}, {found.read} of {found.chunks} chunks have been read"
    else:
        yield f"damaged: {found.place}, {len(found.bad) + lost} of {found.chunks} chunks"
    for key, fault in islice(found.bad.items(), _NAMED):
        yield _fact("bad", f"{key}: {fault}")
    if len(found.bad) > _NAMED:
        yield _fact("", f"and {len(found.bad) - _NAMED} more")
    for key in found.missing_keys[:_NAMED]:
        yield _fact("missing", key if found.misses_none else f"{key} (fill value)")
    if found.missing > _NAMED:
        yield _fact("", f"and {found.missing - _NAMED} more")
    if lost:
        yield "Missing chunks were lost, or left out by a copy that skips fill values."
    if not found.has_checksums:
        yield "There are no checksums, so only what cannot be decoded has been found."


def _fact(name: str, value: str) -> str:
    return f"  {name:8} {value}"


def _printable(text: str) -> str:
    """Escape what a terminal might obey, since metadata need not be trusted, or cannot show."""
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # there may be no stdout
    return text.encode(encoding, "backslashreplace").decode(encoding)


if __name__ == "__main__":
    sys.exit(main())
