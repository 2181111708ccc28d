"""MPI processes as ranks.

Needs a communicator of mpi4py (the extra ``mpi``), and does not import it.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

__all__ = ["Communicator", "MPIRanks"]

T = TypeVar("T")


class Communicator(Protocol):
    """A communicator of mpi4py, such as ``mpi4py.MPI.COMM_WORLD``."""

    def Get_rank(self) -> int:  # noqa: N802  # as MPI calls it
        """Return the number of this process."""
        ...

    def Get_size(self) -> int:  # noqa: N802  # as MPI calls it
        """Return the number of processes."""
        ...

    def allgather(self, sendobj: Any, /) -> list[Any]:
        """Return the values of all processes."""
        ...


class MPIRanks:
    """The processes of an MPI communicator, as ``mpiexec`` or ``srun`` start them, for ``ranks=``.

    Parameters
    ----------
    comm
        The communicator: ``mpi4py.MPI.COMM_WORLD`` for all processes.

    Examples
    --------
    Started by ``mpiexec -n 2 python job.py``, this has two ranks::

        from mpi4py import MPI

        sequence.to_zarr("scores.zarr", converter, ranks=MPIRanks(MPI.COMM_WORLD))
    """

    def __init__(self, comm: Communicator) -> None:
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self._comm = comm

    def all_gather(self, value: T, /) -> list[T]:
        """Return the values of all ranks, in order."""
        return self._comm.allgather(value)
