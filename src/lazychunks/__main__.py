"""The command line, ``python -m lazychunks``: inspect an array, or an unfinished write.

``status`` shows what is at a path and how far a write has got; ``verify`` reads every chunk. The
exit code tells which of the cases below was found, and ``--json`` prints all facts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING

from lazychunks.layout.plan import MAX_CHUNK_BYTES

if TYPE_CHECKING:
    from lazychunks.storage import Status, Verification

FAILED = 1
DAMAGED = 5
PIPE_CLOSED = 128 + 13  # the code that a shell gives a command ended by SIGPIPE
CODES = {"complete": 0, "unfinished": 3, "absent": 4}  # 2 is argparse's, for a wrong command line

_EPILOG = """\
exit codes:
  0  complete: there is an array (verify: and its chunks are sound)
  1  not known: a group is there, the metadata are refused, or reading failed
  2  the command line is wrong
  3  unfinished: there is an unfinished write (verify: and no array)
  4  absent: there is no array, but perhaps a file, or a directory of something else
  5  damaged (verify): chunks cannot be read, or have been lost
"""

_NAMED = 20
"""Largest number of bad chunks that are printed by name; JSON has all of them."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a command has found."""

    code: int
    """Exit code."""
    facts: Mapping[str, object]
    """For a program: the JSON object."""
    lines: Iterator[str]
    """For a person."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code.

    Examples
    --------
    >>> main(["status", "nowhere.zarr"])
    absent: there is no array at nowhere.zarr
    4
    """
    options = _make_parser().parse_args(arguments)
    run = _run_status if options.command == "status" else _run_verify
    try:
        report = run(options)
    # The library's own errors are kinds of these. A URL may need a package that is not installed.
    except (ImportError, OSError, ValueError) as error:
        print(_escape(f"error: {error}"), file=sys.stderr)
        return FAILED
    text = json.dumps(report.facts) if options.json else "\n".join(map(_escape, report.lines))
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The reader has closed the pipe, as `| head -1` does. Python flushes stdout once more at
        # exit, which would print a traceback unless stdout goes somewhere else.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return report.code


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lazychunks",
        description="Inspect a Zarr array, or an unfinished write. Nothing is changed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    status = commands.add_parser("status", help="show what is there, and how far a write has got")
    verify = commands.add_parser("verify", help="read every chunk, and compare its checksum")
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


def _run_status(options: argparse.Namespace) -> Report:
    from lazychunks.storage import status

    found = status(options.path)
    return Report(CODES[found.state], asdict(found), _describe_status(found))


def _run_verify(options: argparse.Namespace) -> Report:
    from lazychunks.storage import verify

    try:
        found = verify(options.path, max_chunk_bytes=options.max_chunk_bytes)
    except FileNotFoundError:
        return _run_status(options)  # there is no array: say whether a write is under way
    code = CODES["complete"] if found.is_sound else DAMAGED
    facts = {**asdict(found), "is_sound": found.is_sound}
    return Report(code, facts, _describe_verification(found))


def _describe_status(found: Status) -> Iterator[str]:
    if found.state == "absent":
        yield f"absent: there is no array at {found.place}"
    elif found.state == "complete":
        yield f"complete: {found.place}"
    else:
        yield f"unfinished: {found.place}, {_describe_progress(found)}"
    if found.shape is not None:
        yield _format_fact("shape", _format_shape(found))
    for name in ("dtype", "chunks", "shards", "run_id"):
        value = getattr(found, name)
        if value is not None:
            yield _format_fact(name, value if name == "dtype" else repr(value))
    yield from _describe_content(found)
    if found.state == "unfinished":
        if found.run_id is not None:
            yield "To resume, repeat the same call with this run_id and resume=True."
        if found.is_published:
            yield "Until it is complete, readers see the array that was there before."
    if found.set_aside is not None:
        yield f"The array that was there is at {found.set_aside}: the next write puts it back."


def _describe_content(found: Status) -> Iterator[str]:
    for name, size in (("values", found.nbytes), ("stored", found.stored_bytes)):
        if size is not None:
            yield _format_fact(name, f"{size:,} bytes")
    for name, member in (found.members or {}).items():
        yield _format_fact("array", f"{name}: {_format_shape(member)} {member.dtype}")


def _format_shape(found: Status) -> str:
    lengths = ["?" if length is None else str(length) for length in found.shape or ()]
    return f"({', '.join(lengths)}{',' * (len(lengths) == 1)})"


def _describe_progress(found: Status) -> str:
    if found.is_written:
        return "all blocks are done, only publishing is left"
    if found.done_blocks is None:
        return "of which it is not known how many blocks are done"
    return f"{found.done_blocks} of {found.blocks or 'an unknown number of'} blocks are done"


def _describe_verification(found: Verification) -> Iterator[str]:
    lost = found.missing if found.misses_none else 0
    if found.is_sound:
        yield f"sound: {found.place}, {found.read} of {found.chunks} chunks have been read"
    else:
        yield f"damaged: {found.place}, {len(found.bad) + lost} of {found.chunks} chunks"
    for key, fault in islice(found.bad.items(), _NAMED):
        yield _format_fact("bad", f"{key}: {fault}")
    if len(found.bad) > _NAMED:
        yield _format_fact("", f"and {len(found.bad) - _NAMED} more")
    for key in found.missing_keys[:_NAMED]:
        yield _format_fact("missing", key if found.misses_none else f"{key} (fill value)")
    if found.missing > _NAMED:
        yield _format_fact("", f"and {found.missing - _NAMED} more")
    if lost:
        yield "Missing chunks were lost, or left out by a copy that skips fill values."
    if not found.has_checksums:
        yield "There are no checksums, so only what cannot be decoded has been found."


def _format_fact(name: str, value: str) -> str:
    return f"  {name:8} {value}"


def _escape(text: str) -> str:
    """Escape characters that a terminal would obey, or cannot show."""
    # Metadata may be hostile: a run_id or a codec's name can hold control sequences.
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # a program may have no stdout
    return text.encode(encoding, "backslashreplace").decode(encoding)


if __name__ == "__main__":
    sys.exit(main())
