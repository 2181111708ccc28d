"""``python -m lazychunks``: the exit codes are as documented, and the text is for people."""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazychunks import IdentityConverter, LazyChunkSequence
from lazychunks.__main__ import main
from lazychunks.storage.places.refusals import REPLACED
from lazychunks.storage.resuming.record import seal, unseal
from tests.faults.jobs import FLAT
from tests.places import LocalPlace, put_array, put_group, tree
from tests.test_docs import ROOT, run_page
from tests.test_inspecting import begin

PAGE = ROOT / "docs" / "command-line.md"


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def complete() -> None:
    FLAT.store("array.zarr", run_id="r")


def unfinished() -> None:
    begin(FLAT, LocalPlace(Path()), 3)


def damaged() -> None:
    complete()
    chunk = Path("array.zarr/c/1/0")
    chunk.write_bytes(chunk.read_bytes()[:-3])


def lossy() -> None:
    complete()
    Path("array.zarr/c/1/0").unlink()


def replaced() -> None:
    complete()
    begin(FLAT, LocalPlace(Path()), 3, overwrite=True, run_id="s")


def grouped() -> None:
    put_group("array.zarr")


def nothing() -> None:
    """There is nothing."""


def something() -> None:
    Path("array.zarr").write_text("no array")


CASES: list[tuple[Callable[[], None], str, int, str]] = [
    (complete, "status", 0, "complete: array.zarr\n  shape    (18, 6)\n"),
    (unfinished, "status", 3, "unfinished: array.zarr, 3 of 5 blocks are done\n"),
    (nothing, "status", 4, "absent: there is no array at array.zarr\n"),
    (something, "status", 4, "absent: there is no array at array.zarr\n"),
    (grouped, "status", 1, "error: array.zarr holds a zarr group; name an array within it\n"),
    (replaced, "status", 3, "readers see the array that was there before.\n"),
    (complete, "verify", 0, "sound: array.zarr, 5 of 5 chunks have been read\n"),
    (damaged, "verify", 5, "damaged: array.zarr, 1 of 5 chunks\n  bad      c/1/0: "),
    (lossy, "verify", 5, "damaged: array.zarr, 1 of 5 chunks\n  missing  c/1/0\n"),
    (unfinished, "verify", 3, "unfinished: array.zarr, 3 of 5 blocks are done\n"),
    (nothing, "verify", 4, "absent: "),
    (grouped, "verify", 1, "error: "),
    (replaced, "verify", 0, "sound: "),
]


@pytest.mark.parametrize(("arrange", "command", "code", "text"), CASES)
def test_exit_code_and_text(
    arrange: Callable[[], None],
    command: str,
    code: int,
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arrange()
    before = tree(Path())
    assert main([command, "array.zarr"]) == code
    out, err = capsys.readouterr()
    assert text in (err if code == 1 else out)
    assert (out if code == 1 else err) == ""
    assert tree(Path()) == before
    assert main([command, "array.zarr", "--json"]) == code
    out, err = capsys.readouterr()
    if code == 1:
        assert out == ""
    else:
        found = json.loads(out)
        assert found["place"] == "array.zarr"
        assert out.count("\n") == 1


@pytest.mark.parametrize(
    ("arrange", "arguments", "code"),
    [
        pytest.param(complete, "status array.zarr", 0, marks=pytest.mark.slow),
        pytest.param(grouped, "status array.zarr", 1, marks=pytest.mark.slow),
        pytest.param(complete, "mend array.zarr", 2, marks=pytest.mark.slow),
        (damaged, "verify array.zarr --json", 5),
    ],
)
def test_a_script_sees_the_exit_code(
    arrange: Callable[[], None], arguments: str, code: int
) -> None:
    arrange()
    command = [sys.executable, "-m", "lazychunks", *arguments.split()]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == code
    assert (ran.stdout == "") is (code in (1, 2))
    assert (ran.stderr == "") is (code not in (1, 2))


def test_a_reader_that_has_enough_ends_it_quietly() -> None:
    """As ``| head`` does: its end of the pipe is closed."""
    complete()
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "lazychunks", "verify", "array.zarr"]
    with os.fdopen(writing, "wb") as pipe:
        ran = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (ran.returncode, ran.stderr) == (128 + 13, b"")  # 13: SIGPIPE


def test_what_json_tells(capsys: pytest.CaptureFixture[str]) -> None:
    unfinished()
    main(["status", "array.zarr", "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["state"] == "unfinished"
    assert (found["done_blocks"], found["blocks"], found["run_id"]) == (3, 5, "r")
    assert found["shape"] == [None, 6]
    FLAT.store("array.zarr", run_id="r", resume=True)
    for key in ("c/0/0", "c/4/0"):
        Path("array.zarr", key).write_bytes(b"")
    Path("array.zarr/c/2/0").unlink()
    main(["verify", "array.zarr", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert list(found["bad"]) == ["c/0/0", "c/4/0"]
    assert (found["missing"], found["missing_keys"]) == (1, ["c/2/0"])
    assert found["is_sound"] is False


def test_chunks_of_others_may_be_missing(capsys: pytest.CaptureFixture[str]) -> None:
    put_array("array.zarr", np.arange(100).reshape(50, 2))
    for number in range(22):
        Path(f"array.zarr/c/{number}/0").unlink()
    assert main(["verify", "array.zarr"]) == 0
    out = capsys.readouterr().out
    assert "sound: array.zarr, 3 of 25 chunks have been read" in out
    assert out.count("(fill value)") == 20
    assert "and 2 more" in out
    assert "There are no checksums" in out


def test_many_bad_chunks_are_not_all_named(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = LazyChunkSequence.from_map(lambda number: np.full(2, number), range(30))
    blocks.to_zarr("array.zarr", IdentityConverter(), chunks="blocks")
    for number in range(25):
        Path(f"array.zarr/c/{number}").write_bytes(b"?")
    assert main(["verify", "array.zarr"]) == 5
    out = capsys.readouterr().out
    assert out.count("  bad ") == 20
    assert "and 5 more" in out


def test_larger_chunks_are_allowed_by_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    complete()
    assert main(["verify", "array.zarr", "--max-chunk-bytes", "191"]) == 1
    assert "max_chunk_bytes=191" in capsys.readouterr().err
    assert main(["verify", "array.zarr", "--max-chunk-bytes", "192"]) == 0


def test_an_array_set_aside_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    complete()
    Path("array.zarr", REPLACED).touch()
    Path("array.zarr").rename(".array.zarr.old")
    assert main(["status", "array.zarr"]) == 4
    assert ".array.zarr.old: the next write puts it back" in capsys.readouterr().out


def test_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    complete()
    assert main(["status", Path("array.zarr").absolute().as_uri()]) == 0
    assert main(["status", "nonsense://array.zarr"]) == 1
    assert "error: " in capsys.readouterr().err


def test_what_a_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    put_array("zahlen-\u00fc", np.arange(3))
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["status", "zahlen-\u00fc"]) == 0
    terminal.seek(0)
    assert "complete: zahlen-\\xfc" in terminal.read()


def test_metadata_cannot_give_orders_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    begin(FLAT, LocalPlace(Path()), 3, run_id="\x1b[2J\x07name")
    main(["status", "array.zarr"])
    file = Path(".array.zarr.partial/zarr.json.partial")
    document, _ = unseal(file.read_bytes())
    document["codecs"].append({"name": "\x1b]0;title\x07"})
    file.write_bytes(seal(document))
    assert main(["status", "array.zarr"]) == 1
    out, err = capsys.readouterr()
    assert "\\x1b[2J\\x07name" in out
    assert "\\x1b]0;title\\x07" in err
    assert (out + err).replace("\n", "").isprintable()


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["status", "--help"], ["verify", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        assert "usage: python -m lazychunks" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    codes = re.findall(r"^  (\d)  ", capsys.readouterr().out, flags=re.MULTILINE)
    assert codes == ["0", "1", "2", "3", "4", "5"]
    assert re.findall(r"^\| (\d) \|", PAGE.read_text(), flags=re.MULTILINE) == codes


def shown(block: str) -> list[tuple[str, str]]:
    """Commands of a console session, each with what the page shows of its output."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def check_session(block: str) -> None:
    """Run the commands of a console session; ``...`` stands for anything."""
    for command, output in shown(block):
        words = shlex.split(command.partition("; echo $?")[0])
        assert words[:3] == ["python", "-m", "lazychunks"]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = main(words[3:])
            if "echo $?" in command:
                printed.write(f"{code}\n")
        expected = re.escape(output).replace(r"\.\.\.", ".*")
        assert re.fullmatch(expected, printed.getvalue(), flags=re.DOTALL), printed.getvalue()
        checked.append(command)


checked: list[str] = []


def test_the_page_shows_what_is_printed() -> None:
    checked.clear()
    run_page(PAGE, check_session)
    assert len(checked) == PAGE.read_text().count("\n$ ") >= 3


def test_output_that_differs_is_found() -> None:
    right = "absent: there is no array at nowhere\n4\n"
    check_session(f"$ python -m lazychunks status nowhere; echo $?\n{right}")
    for wrong in ("complete: nowhere\n", right.replace("4", "3")):
        with pytest.raises(AssertionError):
            check_session(f"$ python -m lazychunks status nowhere; echo $?\n{wrong}")
