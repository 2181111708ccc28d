"""Find mislabeled training images by their influence on a trained network.

Some labels of scikit-learn's digits are flipped on purpose and a small network is trained on them.
The influence of every training image on every test image is computed block by block, once. One pass
over the blocks streams them to ``influence.zarr``, ranks the training images that help and harm
each test image most, and adds up the effect of each on all of them. The matrix is never in memory.
The flipped images come out on top, and ``influence.png`` shows by how much.

Run it with ``python docs/examples/influence_digits.py``. Kill it at any time and start it again: it
goes on with the same pass, in which stored blocks are read back and only the others are computed.
``--workers 8`` computes eight blocks at a time, and ``torchrun --nproc-per-node=2
docs/examples/influence_digits.py`` lets two processes share them. None of this changes a bit of the
result.

Method
------
Let theta minimize J = mean_i loss_i(theta) + weight_decay / 2 * |theta|^2 over n training images.
Raising the weight of image i from 1/n to 1/n + eps moves the minimizer by -eps * H^-1 g_i to first
order, where g_i is the gradient of loss_i and H the Hessian of J (Koh & Liang 2017). As usual for
networks, H is replaced by its Gauss-Newton part, which for softmax with cross-entropy is the Fisher
matrix (Martens 2020):

    H = 1/n * sum_i sum_c p(c | x_i) g_ic g_ic^T + weight_decay * I,   g_ic = grad loss(x_i, c).

H covers all layers and is positive definite, and with 2,410 parameters it is small enough to be
inverted: nothing is sampled, no solver is truncated, and the damping is the weight decay that the
network was trained with.

Sign
----
Entry (t, i) of the stored matrix is g_t^T H^-1 g_i, *minus* the I_up,loss of Koh & Liang:

- positive: image i *helps* test image t; without it the loss of t would rise by about entry / n;
- negative: image i *harms* test image t; without it the loss of t would fall by as much.

The tests retrain without an image to see that both the sign and the size are right.

The self-influence g_i^T H^-1 g_i >= 0 is large where the network owes a label to that very image
alone, as it does for a wrong one (Koh & Liang 2017, section 5.4; Feldman & Zhang 2020).

References
----------
- P. W. Koh, P. Liang. Understanding Black-box Predictions via Influence Functions. ICML 2017.
- J. Martens. New Insights and Perspectives on the Natural Gradient Method. JMLR 21(146), 2020.
- V. Feldman, C. Zhang. What Neural Networks Memorize and Why. NeurIPS 2020.
"""

# matplotlib leaves its **kwargs without a type, and torch some functions; only pyright minds.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import argparse
import copy
import io
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector

from lazychunks import LazyChunkSequence, NestedLazyChunkSequence, TopK, nest, tee, zarr_sink
from lazychunks.torch import DistributedRanks, TorchNumpyConverter, concatenate, top_k, total

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor

    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from numpy.typing import NDArray
    from torch import Tensor

    from lazychunks import Ranks

CLASSES: Final = 10
TEST_IMAGES: Final = 360
FLIPPED_SHARE: Final = 0.05
WEIGHT_DECAY: Final = 1e-2
TEST_BATCH: Final = 64
TRAIN_BATCH: Final = 128
NEIGHBORS: Final = 4
INSPECTED_SHARES: Final = (0.05, 0.10, 0.20)
# Colors of Okabe and Ito, which stay distinct for the color-blind.
FLIPPED_COLOR: Final = "#d55e00"
CURVE_COLORS: Final = ("#0072b2", "#009e73")
NEUTRAL_COLOR: Final = "#666666"


# --- data ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images with one label each."""

    images: Tensor
    """Pixels in [0, 1], shape (b, 64), float64."""
    labels: Tensor
    """Classes, shape (b,), int64."""

    def split(self, size: int) -> list[Batch]:
        """Return consecutive batches of ``size`` images; the last may be smaller."""
        parts = torch.split(self.images, size), torch.split(self.labels, size)
        return [Batch(images, labels) for images, labels in zip(*parts, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """The digits, split, with some training labels flipped."""

    train: Batch
    """Training images, some of them with a wrong label."""
    test: Batch
    """Test images, all with their own label."""
    true_labels: Tensor
    """Labels of the training images before the flip, shape (n,)."""

    @property
    def flipped(self) -> NDArray[np.bool_]:
        """Which training images carry a wrong label, shape (n,)."""
        return (self.train.labels != self.true_labels).numpy()


def load(seed: int) -> Digits:
    """Split the 1,797 digits at random and move 5 % of the training labels to another class."""
    pixels, classes = load_digits(return_X_y=True)
    images, labels = torch.from_numpy(pixels / 16), torch.from_numpy(classes)
    generator = torch.Generator().manual_seed(seed)
    test, train = torch.randperm(len(labels), generator=generator).tensor_split([TEST_IMAGES])
    flips = torch.randperm(len(train), generator=generator)[: round(FLIPPED_SHARE * len(train))]
    given = labels[train]
    # A shift by 1 to 9 modulo 10 reaches every other class and never the same one.
    given[flips] = (
        given[flips] + torch.randint(1, CLASSES, flips.shape, generator=generator)
    ) % CLASSES
    return Digits(Batch(images[train], given), Batch(images[test], labels[test]), labels[train])


# --- network -------------------------------------------------------------------------------------


def fit(batch: Batch, seed: int) -> nn.Sequential:
    """Train a 64-32-10 network to a stationary point of its objective.

    Influence functions describe a *minimizer*: hence a smooth activation, and full-batch L-BFGS in
    float64 until the gradient vanishes, rather than a few epochs of SGD.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, CLASSES)).double()
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=4000,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(batch.images), batch.labels)
        decay = WEIGHT_DECAY / 2 * parameters_to_vector(model.parameters()).square().sum()
        torch.autograd.backward(loss + decay)
        return loss + decay

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch does not annotate it
    return model


# --- who computes --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Crew:
    """Who computes the blocks: threads of this process, or processes that torchrun has started."""

    executor: Executor | None
    ranks: Ranks | None

    @classmethod
    def of(cls, workers: int, stack: ExitStack) -> Crew:
        """Join the processes of torchrun, or else start threads; both end with the stack."""
        if dist.is_torchelastic_launched():
            dist.init_process_group("gloo")
            stack.callback(dist.destroy_process_group)
            return cls(None, DistributedRanks())
        # Threads suffice, as torch lets others run while it computes. Blocks that spend their time
        # in Python would need processes, to which the inverse would have to be sent.
        initializer = torch.set_num_threads
        executor = ThreadPoolExecutor(workers, initializer=initializer, initargs=(1,))
        return cls(stack.enter_context(executor), None)

    @property
    def leads(self) -> bool:
        """Whether this process prints and draws."""
        return self.ranks is None or self.ranks.rank == 0


# --- influence -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class SampleGradients:
    """The gradient of each image's loss with respect to all parameters, as the rows of a matrix."""

    model: nn.Module

    def __call__(self, batch: Batch) -> Tensor:
        """Return the gradients, shape (b, p)."""
        # functional_call changes the module while it runs, so threads must not share one.
        model = copy.deepcopy(self.model)

        def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
            return cross_entropy(functional_call(model, parameters, (image,)), label)

        parameters = {name: value.detach() for name, value in model.named_parameters()}
        gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, batch.images, batch.labels)
        return torch.cat([gradients[name].flatten(start_dim=1) for name in parameters], dim=1)

    def fisher(self, batch: Batch) -> Tensor:
        """Return the batch's sum of p(c | x) g g^T over images and classes, shape (1, p, p)."""
        with torch.no_grad():
            roots = self.model(batch.images).softmax(dim=1).sqrt()
        rows = torch.cat(
            [
                roots[:, c, None] * self(Batch(batch.images, torch.full_like(batch.labels, c)))
                for c in range(CLASSES)
            ]
        )
        return (rows.T @ rows)[None]


@dataclass(frozen=True, slots=True, eq=False)
class Influence:
    """The block function: influence of a batch of training images on a batch of test images."""

    gradients: SampleGradients
    inverse: Tensor
    """Inverse of the damped Gauss-Newton matrix H, shape (p, p)."""

    @classmethod
    def of(cls, model: nn.Module, train: Batch, crew: Crew) -> Influence:
        """Add up H over the training batches and invert it once."""
        gradients = SampleGradients(model)
        batches = train.split(TRAIN_BATCH)
        shares = LazyChunkSequence.from_map(gradients.fisher, batches)
        fisher = shares.compute(total(), executor=crew.executor, ranks=crew.ranks)
        damping = WEIGHT_DECAY * torch.eye(len(fisher), dtype=fisher.dtype)
        return cls(gradients, (fisher / len(train.labels) + damping).inverse())

    def __call__(self, test: Batch, train: Batch) -> Tensor:
        """Return a block: a row for each test image, a column for each training image."""
        return self.gradients(test) @ (self.gradients(train) @ self.inverse).T

    def on_itself(self, train: Batch) -> Tensor:
        """Return the influence of each training image on itself, shape (b,)."""
        gradients = self.gradients(train)
        return (gradients * (gradients @ self.inverse)).sum(dim=1)


# --- the pass ------------------------------------------------------------------------------------


class Ranking(NamedTuple):
    """What is left of the matrix."""

    helpful: TopK[Tensor]
    """The training images that help each test image most, best first, shape (t, 4)."""
    harmful: TopK[Tensor]
    """Those that harm it most, worst first."""
    on_all: Tensor
    """Influence of each training image on all test images together, shape (n,)."""


def as_row(sums: Tensor) -> Tensor:
    """Return a vector as a matrix of one row."""
    return sums[None]


def store_and_rank(
    influence: Influence,
    digits: Digits,
    path: Path,
    *,
    run_id: str,
    fresh: bool,
    crew: Crew,
) -> Ranking:
    """Store the matrix, and rank its columns and add up its rows in the same pass.

    If an earlier start was killed, its blocks are read back, and only the others are computed.
    """
    matrix = NestedLazyChunkSequence.from_product(
        influence, digits.test.split(TEST_BATCH), digits.train.split(TRAIN_BATCH)
    )
    sink = zarr_sink(
        path,
        TorchNumpyConverter(),
        overwrite=True,
        chunks="blocks",
        run_id=run_id,
        resume=not fresh,
        rtol=1e-6,  # another kind of processor may add up in another order
    )
    both_ends = tee(top_k(NEIGHBORS, axis=1), top_k(NEIGHBORS, axis=1, largest=False))
    column_sums = nest(total(axis=0, along=1).then(as_row), total())
    _, (helpful, harmful), on_all = matrix.compute(
        tee(sink, nest(both_ends, concatenate()), column_sums),
        executor=crew.executor,
        ranks=crew.ranks,
        progress=True,
    )
    return Ranking(helpful, harmful, on_all)


# --- ranking -------------------------------------------------------------------------------------


def detection_curve(flipped: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how many flipped labels are among the k highest scores, for k = 0 to n."""
    return np.insert(flipped[scores.argsort()[::-1]].cumsum(), 0, 0)


def found_in_top(curve: NDArray[np.int64], share: float) -> int:
    """Return how many flipped labels are in the given share of highest scores."""
    return int(curve[round(share * (len(curve) - 1))])


def report(curves: Mapping[str, NDArray[np.int64]], flips: int) -> str:
    """Return the table of flipped labels found in the highest 5, 10 and 20 % of the scores."""
    heads = (f"top {share:.0%}".rjust(9) for share in INSPECTED_SHARES)
    lines = [f"flipped labels found, of {flips}".ljust(32) + "".join(heads)]
    for name, curve in curves.items():
        counts = (f"{found_in_top(curve, share):9d}" for share in INSPECTED_SHARES)
        lines.append(f"  by {name}".ljust(32) + "".join(counts))
    by_chance = (f"{share * flips:9.1f}" for share in INSPECTED_SHARES)
    return "\n".join([*lines, "  by chance".ljust(32) + "".join(by_chance)])


# --- picture -------------------------------------------------------------------------------------


def hardest(logits: Tensor, labels: Tensor, count: int) -> list[int]:
    """Return the images read wrongly or most nearly so, at most one of each class."""
    own = nn.functional.one_hot(labels, CLASSES).bool()
    margins = logits[own] - logits.masked_fill(own, -torch.inf).amax(dim=1)
    chosen: dict[int, int] = {}
    for index in margins.argsort().numpy():
        chosen.setdefault(int(labels[index]), int(index))
    return list(chosen.values())[:count]


def draw_digit(axes: Axes, pixels: Tensor, caption: str, color: str, frame: float) -> None:
    """Draw a digit in a frame, its caption below."""
    axes.imshow(pixels.reshape(8, 8).numpy(), cmap="gray_r", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(caption, color=color, fontsize=8, labelpad=4)
    axes.spines[:].set(color=color, linewidth=frame)


def draw_training_digit(axes: Axes, digits: Digits, index: int) -> None:
    """Draw a training digit; a flipped label stands out."""
    given, true = int(digits.train.labels[index]), int(digits.true_labels[index])
    flipped = given != true
    caption = f"labeled {given}, is {true}" if flipped else f"labeled {given}"
    color, frame = (FLIPPED_COLOR, 2.5) if flipped else (NEUTRAL_COLOR, 0.6)
    draw_digit(axes, digits.train.images[index], caption, color, frame)


def draw_heading(figure: SubFigure, title: str, subtitle: str) -> None:
    """Write a title and the sentence that says how to read the part below."""
    figure.text(0.025, 0.945, title, fontsize=15, fontweight="bold")
    figure.text(0.025, 0.905, subtitle, fontsize=10.5, color=NEUTRAL_COLOR)


def draw_neighbors(figure: SubFigure, digits: Digits, logits: Tensor, ranked: Ranking) -> None:
    """Draw hard test digits, each beside the training digits of most influence on it."""
    draw_heading(
        figure,
        "Which training digits help or harm a hard test digit?",
        "Orange frames: the label was flipped before training. Strongest influence first.",
    )
    tests = hardest(logits, digits.test.labels, count=6)
    grid = figure.subplots(
        len(tests),
        11,
        width_ratios=[1, 0.25, 1, 1, 1, 1, 0.25, 1, 1, 1, 1],
        gridspec_kw={"left": 0.025, "right": 0.975, "top": 0.81, "bottom": 0.05, "hspace": 0.45},
    )
    for row, test in zip(grid, tests, strict=True):
        caption = f"is {digits.test.labels[test]}, read as {logits[test].argmax()}"
        draw_digit(row[0], digits.test.images[test], caption, "black", 1.2)
        ends = torch.cat([ranked.helpful.indices[test], ranked.harmful.indices[test]])
        for axes, index in zip([*row[2:6], *row[7:]], ends, strict=True):
            draw_training_digit(axes, digits, int(index))
        row[1].set_axis_off()
        row[6].set_axis_off()
    for column, title in {0: "Test digit", 2: "Most helpful", 7: "Most harmful"}.items():
        grid[0, column].set_title(title, loc="left", fontsize=11.5, pad=8)


def draw_detection(figure: SubFigure, curves: Mapping[str, NDArray[np.int64]], flips: int) -> None:
    """Draw the share of flipped labels found over the share of training images looked at."""
    name, best = next(iter(curves.items()))
    draw_heading(
        figure,
        "How soon are flipped labels found?",
        f"{found_in_top(best, 0.1)} of {flips} are among the 10% of highest {name}.",
    )
    axes = figure.subplots(gridspec_kw={"left": 0.15, "right": 0.95, "top": 0.81, "bottom": 0.11})
    looked_at = np.linspace(0, 1, len(best))
    for color, (name, curve) in zip(CURVE_COLORS, curves.items(), strict=True):
        axes.plot(looked_at, curve / flips, color=color, linewidth=2.2, label=f"by {name}")
    ideal = np.minimum(looked_at * (len(best) - 1) / flips, 1)
    axes.plot(looked_at, ideal, color="black", linewidth=1, linestyle="--", label="ideal")
    axes.plot(looked_at, looked_at, color=NEUTRAL_COLOR, linestyle=":", label="by chance")
    axes.set(xlim=(0, 0.3), ylim=(0, 1.03))
    axes.set_xlabel("training images looked at, highest score first", labelpad=8)
    axes.set_ylabel("flipped labels found", labelpad=8)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center right", fontsize=10.5, labelspacing=0.7)


# --- main job ------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; return the exit status."""
    parser = argparse.ArgumentParser(description="Find mislabeled digits by their influence.")
    parser.add_argument("--out", type=Path, default=Path(), help="directory for the results")
    parser.add_argument("--seed", type=int, default=0, help="of split, flips and first weights")
    parser.add_argument("--fresh", action="store_true", help="compute again what is stored already")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="number of blocks computed at a time"
    )
    arguments = parser.parse_args(argv)
    out, seed, fresh = Path(arguments.out), int(arguments.seed), bool(arguments.fresh)
    out.mkdir(parents=True, exist_ok=True)

    # Torch splits a matrix product among its threads, and each number of threads rounds in another
    # way. With one thread for each product, a block has the same bits whoever computes it.
    torch.set_num_threads(1)
    with ExitStack() as stack:
        crew = Crew.of(arguments.workers, stack)
        if not crew.leads:
            stack.enter_context(redirect_stdout(io.StringIO()))
        digits = load(seed)
        flips = int(digits.flipped.sum())
        print(f"training on {len(digits.true_labels)} digits, {flips} labels flipped")
        model = fit(digits.train, seed)
        with torch.no_grad():
            logits = model(digits.test.images)
        print(f"test accuracy {(logits.argmax(dim=1) == digits.test.labels).double().mean():.1%}")

        influence = Influence.of(model, digits.train, crew)
        path, run_id = out / "influence.zarr", f"digits, seed {seed}"
        ranked = store_and_rank(influence, digits, path, run_id=run_id, fresh=fresh, crew=crew)
        own = LazyChunkSequence.from_map(influence.on_itself, digits.train.split(TRAIN_BATCH))
        on_itself = own.compute(concatenate(), executor=crew.executor, ranks=crew.ranks)
        print(f"{len(logits)} x {len(on_itself)} influences in {path}")

        curves = {
            "self-influence": detection_curve(digits.flipped, on_itself.numpy()),
            "harm to the test digits": detection_curve(digits.flipped, -ranked.on_all.numpy()),
        }
        print(report(curves, flips))
        if crew.leads:
            figure = Figure(figsize=(15, 7.4))
            halves = figure.add_gridspec(1, 2, width_ratios=[1.8, 1])
            draw_neighbors(figure.add_subfigure(halves[0]), digits, logits, ranked)
            draw_detection(figure.add_subfigure(halves[1]), curves, flips)
            figure.savefig(out / "influence.png", dpi=150)
        print(f"picture in {out / 'influence.png'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
