"""Run lazychunks beside its peers, and write docs/benchmarks.md and docs/benchmarks.png.

    python tests/benchmarks/run.py [--quick] [--only WORKLOAD ...] [--peers a,b] [--repeats N]

Needs what tests/benchmarks/requirements.txt lists; a peer that is missing is reported as such.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [p for p in (str(ROOT), str(ROOT / "src")) if p not in sys.path]

# ruff: noqa: E402 - these live in the checkout, which a script has to put on the path first
from tests.benchmarks import report, results, writers
from tests.benchmarks.measure import note, race
from tests.benchmarks.scenarios import SCENARIOS, Setting
from tests.benchmarks.workloads import WORKLOADS


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = [m for m in mounts if folder.resolve().is_relative_to(m[1])]
    return max(above, key=lambda m: len(m[1]))[2]


def machine(folder: Path) -> dict[str, str]:
    """Describe this machine by what matters for the figures."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": model,
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "files on": file_system(folder),
        "Python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Return the versions of all that takes part."""
    found = {"numpy": importlib.metadata.version("numpy")}
    for writer in writers.WRITERS:
        if writer.distribution:
            found[writer.distribution] = writer.version() or "not installed"
    for name in ("numcodecs", "hdf5plugin", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def arguments() -> argparse.Namespace:
    names = [*(w.name for w in WORKLOADS), *SCENARIOS]
    parser = argparse.ArgumentParser(description="Run lazychunks beside its peers.")
    parser.add_argument("--quick", action="store_true", help="few blocks: does it run at all?")
    parser.add_argument("--only", action="append", choices=names, help="a workload; repeatable")
    parser.add_argument("--peers", help="names, comma-separated; lazychunks always runs")
    parser.add_argument("--repeats", type=int, default=7, help="rounds (default 7)")
    parser.add_argument("--budget", type=float, default=60, help="seconds a writer and workload")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the documents")
    parser.add_argument("--work", type=Path, help="folder to write in (default: the system's)")
    parser.add_argument("--pydvl", type=Path, help="folder that pyDVL was installed into")
    parser.add_argument("--save", type=Path, help="keep what was measured in this JSON file")
    parser.add_argument("--show", type=Path, help="measure nothing; show what --save kept")
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path) -> results.Results:
    """Run everything that was asked for."""
    names: list[str] = options.only or [*(w.name for w in WORKLOADS), *SCENARIOS]
    peers = None if options.peers is None else options.peers.split(",")
    for name in peers or ():
        writers.by_name(name)
    racing = [
        writer
        for writer in writers.WRITERS
        if peers is None or writer.name in peers or writer.distribution == "lazychunks"
    ]
    repeats = 2 if options.quick else int(options.repeats)
    # Folders are the caller's own and stay out of the document.
    private = {"--out", "--work", "--pydvl", "--save"}
    shown = [
        word
        for before, word in zip(["", *sys.argv[1:]], sys.argv[1:], strict=False)
        if word.split("=")[0] not in private and before not in private
    ]
    found = results.Results(
        machine(folder),
        versions(),
        " ".join(["python tests/benchmarks/run.py", *shown]),
        repeats,
        bool(options.quick),
    )
    for workload in WORKLOADS:
        if workload.name in names:
            size = workload.shortened(8) if options.quick else workload
            found.timings += race(
                size, racing, repeats=repeats, budget=options.budget, folder=folder
            )
            keep(found, options)
    seconds = {(t.workload, t.writer): t.median for t in found.timings if t.ran}
    for name, scenario in SCENARIOS.items():
        if name in names:
            note(name)
            found.scenarios.append(scenario(Setting(repeats, options.quick, folder, seconds)))
            keep(found, options)
    return found


def keep(found: results.Results, options: argparse.Namespace) -> None:
    """Save what there is so far, so that a run that is cut off was not for nothing."""
    if options.save is not None:
        found.save(options.save)


def main() -> None:
    options = arguments()
    # A run that is told to end still removes what it has written.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if options.pydvl is not None:
        sys.path.append(str(options.pydvl.resolve()))
    if options.show is not None:
        found = results.load(options.show)
    else:
        with tempfile.TemporaryDirectory(prefix="lazychunks-", dir=options.work) as folder:
            found = measure(options, Path(folder))
    options.out.mkdir(parents=True, exist_ok=True)
    report.write(found, options.out)


if __name__ == "__main__":
    main()
