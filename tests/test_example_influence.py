"""The main job, run as a whole: what it stores is right, what it finds is real, and it draws."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

pytest.importorskip("torch", reason="the example trains a torch model")
pytest.importorskip("matplotlib", reason="the example draws a picture")
pytest.importorskip("sklearn", reason="the example reads scikit-learn's digits")

import torch
import zarr
from torch.nn.utils import parameters_to_vector

from docs.examples import influence_digits as example
from lazychunks import NestedLazyChunkSequence, status
from tests.places import tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

SEED: Final = 0
BLOCKS: Final = 6 * 12  # of 64 test images each, and of 128 training images each


@dataclass(slots=True)
class Watch:
    """What a run of the example did."""

    computed: list[int] = field(default_factory=list[int])
    """A 1 for each block that was computed."""
    on_itself: list[Tensor] = field(default_factory=list["Tensor"])
    """Self-influences, by batch of training images."""
    influence: example.Influence | None = None
    ranked: example.Ranking | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the example leaves behind, with the inputs it is a function of."""

    out: Path
    printed: str
    watch: Watch
    stored: NDArray[np.float64]
    digits: example.Digits
    model: nn.Sequential

    @property
    def ranked(self) -> example.Ranking:
        """What the pass over the blocks came to."""
        assert self.watch.ranked is not None
        return self.watch.ranked

    @property
    def on_itself(self) -> Tensor:
        """The self-influence of each training image."""
        return torch.cat(self.watch.on_itself)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A first start, from beginning to end.

    To train and to invert takes most of it, so nearly all other starts take the model of this one.
    """
    out = tmp_path_factory.mktemp("influence")
    printed = io.StringIO()
    threads = torch.get_num_threads()
    fit, models = example.fit, list["nn.Sequential"]()

    def kept(train: example.Batch, seed: int) -> nn.Sequential:
        models.append(fit(train, seed))
        return models[-1]

    with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        watch = watch_main(patch)
        patch.setattr(example, "fit", kept)
        assert example.main(arguments(out)) == 0
    yield Run(out, printed.getvalue(), watch, stored_in(out), example.load(SEED), *models)
    torch.set_num_threads(threads)


def arguments(out: Path, *more: str, workers: int = 1) -> Sequence[str]:
    return ["--out", str(out), "--seed", str(SEED), "--workers", str(workers), *more]


def watch_main(patch: pytest.MonkeyPatch, *, deadly: int = -1, after: Run | None = None) -> Watch:
    """Watch what is computed, and refuse a second pass over what is stored.

    One block may be deadly. After another run, its model and its influence are taken.
    """
    compute, on_itself = example.Influence.__call__, example.Influence.on_itself
    store_and_rank = example.store_and_rank
    watch = Watch()

    def block(self: example.Influence, test: example.Batch, train: example.Batch) -> Tensor:
        if len(watch.computed) == deadly:
            raise KeyboardInterrupt
        watch.computed.append(1)
        return compute(self, test, train)

    def kept_on_itself(self: example.Influence, train: example.Batch) -> Tensor:
        watch.on_itself.append(on_itself(self, train))
        return watch.on_itself[-1]

    def kept(influence: example.Influence, *args: Any, **options: Any) -> example.Ranking:
        watch.influence = influence
        watch.ranked = store_and_rank(influence, *args, **options)
        return watch.ranked

    patch.setattr(NestedLazyChunkSequence, "from_zarr", pytest.fail)
    patch.setattr(example.Influence, "__call__", block)
    patch.setattr(example.Influence, "on_itself", kept_on_itself)
    patch.setattr(example, "store_and_rank", kept)
    if after is not None:
        patch.setattr(example, "fit", Always(after.model))
        patch.setattr(example.Influence, "of", Always(after.watch.influence))
    return watch


@dataclass(frozen=True, slots=True)
class Always:
    """A function that gives the same, whatever it is called with."""

    result: object

    def __call__(self, *_: object) -> object:
        return self.result


def count_done(out: Path) -> int:
    """Count the blocks that an unfinished run has stored."""
    found = status(out / "influence.zarr")
    assert (found.state, found.is_published) == ("unfinished", False)
    assert found.done_blocks is not None
    return found.done_blocks


def check_same(out: Path, watch: Watch, run: Run) -> None:
    """Check that a run came to the same as another one, to the bit."""
    assert stored_in(out).tobytes() == run.stored.tobytes()
    assert watch.ranked is not None
    for ends, expected in zip(watch.ranked[:2], run.ranked[:2], strict=True):
        assert torch.equal(ends.values, expected.values)
        assert torch.equal(ends.indices, expected.indices)
    assert torch.equal(watch.ranked.on_all, run.ranked.on_all)
    assert (out / "influence.png").read_bytes() == (run.out / "influence.png").read_bytes()


def stored_in(out: Path) -> NDArray[np.float64]:
    # pyright cannot see one type in the signature, that of an optional dependency.
    array = zarr.open_array(out / "influence.zarr", mode="r")  # pyright: ignore[reportUnknownMemberType]
    return np.asarray(array[:], dtype=np.float64)


def numpy_gradients(model: nn.Sequential, images: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """Backpropagate by hand through 64-32-10: loss gradients, one row for each image."""
    _, _, outer, _ = (parameter.detach().numpy() for parameter in model.parameters())
    hidden, probabilities = forward(model, images)
    residual = probabilities - np.eye(example.CLASSES)[labels.numpy()]
    return pull_back(images.numpy(), hidden, outer, residual)


def forward(
    model: nn.Sequential, images: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    weight, bias, outer, offset = (parameter.detach().numpy() for parameter in model.parameters())
    hidden = np.tanh(images.numpy() @ weight.T + bias)
    scores = np.exp(hidden @ outer.T + offset)
    return hidden, scores / scores.sum(axis=1, keepdims=True)


def pull_back(
    images: NDArray[np.float64],
    hidden: NDArray[np.float64],
    outer: NDArray[np.float64],
    cotangent: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return J_i^T cotangent_i for each image, J being the Jacobian of the logits."""
    inner = cotangent @ outer * (1 - hidden**2)
    parts = (
        (inner[:, :, None] * images[:, None, :]).reshape(len(images), -1),
        inner,
        (cotangent[:, :, None] * hidden[:, None, :]).reshape(len(images), -1),
        cotangent,
    )
    return np.concatenate(parts, axis=1)


def dense_influence(
    model: nn.Sequential, train: example.Batch, test: example.Batch
) -> NDArray[np.float64]:
    """Compute the matrix in NumPy, from J^T (diag p - p p^T) J instead of the Fisher matrix."""
    _, _, outer, _ = (parameter.detach().numpy() for parameter in model.parameters())
    hidden, probabilities = forward(model, train.images)
    # Row c of the root R_i is sqrt(p_c) (e_c - p), so that R_i^T R_i = diag p - p p^T.
    curvature: NDArray[np.float64] = np.zeros(())
    for c in range(example.CLASSES):
        root = np.sqrt(probabilities[:, c, None]) * (np.eye(example.CLASSES)[c] - probabilities)
        rows = pull_back(train.images.numpy(), hidden, outer, root)
        curvature = curvature + rows.T @ rows
    hessian = curvature / len(hidden) + example.WEIGHT_DECAY * np.eye(len(curvature))
    train_gradients = numpy_gradients(model, train.images, train.labels)
    test_gradients = numpy_gradients(model, test.images, test.labels)
    return test_gradients @ np.linalg.solve(hessian, train_gradients.T)


def test_5_percent_of_the_training_labels_are_flipped_to_another_class() -> None:
    digits = example.load(SEED)
    assert digits.flipped.sum() == round(example.FLIPPED_SHARE * len(digits.true_labels))
    assert 0 <= int(digits.train.labels.min()) <= int(digits.train.labels.max()) < example.CLASSES


def test_a_seed_gives_the_same_digits_each_time_and_another_seed_others() -> None:
    first, again, other = example.load(SEED), example.load(SEED), example.load(SEED + 1)
    assert torch.equal(first.train.labels, again.train.labels)
    assert torch.equal(first.test.images, again.test.images)
    assert not torch.equal(first.test.images, other.test.images)


def test_a_detection_curve_counts_the_flipped_among_the_highest_scores() -> None:
    flipped = np.array([False, True, False, True])
    scores = np.array([0.1, 0.9, 0.5, 0.4])
    assert example.detection_curve(flipped, scores).tolist() == [0, 1, 1, 2, 2]


@pytest.mark.slow
def test_the_stored_array_has_a_row_for_each_test_and_a_column_for_each_training_image(
    run: Run,
) -> None:
    assert run.stored.shape == (len(run.digits.test.labels), len(run.digits.train.labels))
    assert np.isfinite(run.stored).all()


@pytest.mark.slow
def test_the_stored_array_equals_a_direct_dense_computation(run: Run) -> None:
    expected = dense_influence(run.model, run.digits.train, run.digits.test)
    np.testing.assert_allclose(run.stored, expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())


@pytest.mark.slow
def test_flipped_labels_are_found_far_above_chance(run: Run) -> None:
    flipped = run.digits.flipped
    own = np.diag(dense_influence(run.model, run.digits.train, run.digits.train))
    curves = {
        "self-influence": example.detection_curve(flipped, own),
        "harm to the test digits": example.detection_curve(flipped, -run.stored.sum(axis=0)),
    }
    fifth = round(0.2 * len(flipped))
    for curve in curves.values():
        assert curve[fifth] >= 2 * 0.2 * flipped.sum()
    assert example.report(curves, int(flipped.sum())) in run.printed


@pytest.mark.slow
def test_random_scores_find_about_as_many_as_chance(run: Run) -> None:
    # The negative control of the law above: a ranking that knows nothing does not pass it.
    flipped = run.digits.flipped
    scores = np.random.default_rng(SEED).random(len(flipped))
    assert example.detection_curve(flipped, scores)[len(flipped) // 5] < 2 * 0.2 * flipped.sum()


@pytest.mark.slow
def test_leaving_an_image_out_changes_the_test_losses_as_its_column_says(run: Run) -> None:
    # The sign convention, and the method: retrained without the image, the loss of test image t
    # has risen by about entry (t, i) / n.
    index = int(np.abs(run.stored).sum(axis=0).argmax())
    train, count = run.digits.train, len(run.digits.train.labels)
    weights = torch.ones(count, dtype=torch.float64)
    weights[index] = 0
    retrained = copy.deepcopy(run.model)
    optimizer = torch.optim.LBFGS(
        retrained.parameters(),
        max_iter=1000,
        tolerance_grad=1e-6,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = sample_losses(retrained, train)
        squares = parameters_to_vector(retrained.parameters()).square().sum()
        objective = (weights * losses).sum() / count + example.WEIGHT_DECAY / 2 * squares
        torch.autograd.backward(objective)
        return objective

    # torch does not annotate it.
    optimizer.step(closure)  # type: ignore[no-untyped-call]  # pyright: ignore[reportUnknownMemberType]
    with torch.no_grad():
        test = run.digits.test
        rise = (sample_losses(retrained, test) - sample_losses(run.model, test)).numpy()
    predicted = run.stored[:, index] / count
    slope = (predicted @ rise) / (predicted @ predicted)
    assert np.corrcoef(rise, predicted)[0, 1] > 0.9
    assert 0.8 < slope < 1.25


def sample_losses(model: nn.Sequential, batch: example.Batch) -> Tensor:
    return torch.nn.functional.cross_entropy(model(batch.images), batch.labels, reduction="none")


@pytest.mark.slow
def test_the_block_function_survives_pickling(run: Run) -> None:
    model, batch = run.model, run.digits.train.split(8)[0]
    block = example.Influence(example.SampleGradients(model), torch.eye(2410, dtype=torch.float64))
    copied = pickle.loads(pickle.dumps(block))(batch, batch)  # noqa: S301  # our own bytes
    assert torch.equal(copied, block(batch, batch))


@pytest.mark.slow
def test_gradients_are_the_same_when_threads_take_turns_in_them(run: Run) -> None:
    gradients, batch = example.SampleGradients(run.model), run.digits.test.split(16)[0]
    expected, interval = gradients(batch), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as executor:
            assert all(torch.equal(got, expected) for got in executor.map(gradients, [batch] * 200))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.slow
def test_a_picture_is_drawn(run: Run) -> None:
    assert (run.out / "influence.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_nothing_else_is_left_behind(run: Run) -> None:
    assert {path.name for path in run.out.iterdir()} == {"influence.png", "influence.zarr"}


@pytest.mark.slow
def test_one_pass_stores_and_ranks(run: Run) -> None:
    assert len(run.watch.computed) == BLOCKS + 1  # the first one twice, to learn its shape
    order = run.stored.argsort(axis=1, kind="stable")
    np.testing.assert_array_equal(run.ranked.harmful.indices.numpy(), order[:, :4])
    np.testing.assert_array_equal(run.ranked.helpful.indices.numpy(), order[:, :-5:-1])
    for ends in (run.ranked.harmful, run.ranked.helpful):
        expected = np.take_along_axis(run.stored, ends.indices.numpy(), axis=1)
        np.testing.assert_array_equal(ends.values.numpy(), expected)
    np.testing.assert_allclose(run.ranked.on_all.numpy(), run.stored.sum(axis=0), rtol=1e-9)
    own = np.diag(dense_influence(run.model, run.digits.train, run.digits.train))
    np.testing.assert_allclose(run.on_itself.numpy(), own, rtol=1e-6, atol=1e-8 * own.max())


@pytest.mark.slow
def test_two_workers_come_to_the_same_as_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watch_main(monkeypatch, after=run)
    assert example.main(arguments(tmp_path, workers=2)) == 0
    assert len(watch.computed) == BLOCKS + 1
    check_same(tmp_path, watch, run)


@pytest.mark.slow
def test_two_processes_of_torchrun_come_to_the_same_as_one(run: Run, tmp_path: Path) -> None:
    """What is stored, the picture and what the first of them prints are the same to the byte."""
    known, script, out = tmp_path / "known", tmp_path / "script.py", tmp_path / "out"
    known.write_bytes(pickle.dumps((run.model, run.watch.influence)))
    script.write_text(LAUNCHED)
    root = Path(__file__).parent.parent
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launched = subprocess.run(
        [*torchrun, str(script), str(known), *arguments(out)],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*sys.path, "."])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert launched.returncode == 0, launched.stderr
    assert tree(out) == tree(run.out)
    assert launched.stdout.replace(str(out), "") == run.printed.replace(str(run.out), "")


@pytest.mark.slow
def test_a_run_that_is_interrupted_goes_on_in_the_same_pass(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        watch_main(patch, deadly=40, after=run)
        with pytest.raises(KeyboardInterrupt):
            example.main(arguments(tmp_path))
    assert count_done(tmp_path) == 40 - 1  # the first block was computed twice
    watch = watch_main(monkeypatch, after=run)
    assert example.main(arguments(tmp_path)) == 0
    assert len(watch.computed) == BLOCKS - 39 + 1  # one is computed again, to be compared
    check_same(tmp_path, watch, run)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_in_the_same_pass(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is taken over but files: the second start trains, and inverts, for itself, and comes
    # to the model of the first one.
    known = tmp_path / "known"
    known.write_bytes(pickle.dumps((run.model, run.watch.influence)))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(known), *arguments(tmp_path, workers=2)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = count_done(tmp_path)
    assert 40 - 1 - 2 <= done < 40  # two workers were computing, or storing, a block each
    watch = watch_main(monkeypatch)
    assert example.main(arguments(tmp_path)) == 0
    assert len(watch.computed) == BLOCKS - done + 1
    check_same(tmp_path, watch, run)


KILLED: Final = """
import os, pickle, signal, sys
from docs.examples import influence_digits as example

compute, computed = example.Influence.__call__, []

def block(self, test, train):
    if len(computed) == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    computed.append(1)
    return compute(self, test, train)

with open(sys.argv[1], "rb") as known:
    model, influence = pickle.load(known)
example.fit = lambda *_: model
example.Influence.of = lambda *_: influence
example.Influence.__call__ = block
example.main(sys.argv[2:])
"""


LAUNCHED: Final = """
import pickle, sys
from docs.examples import influence_digits as example

with open(sys.argv[1], "rb") as known:
    model, influence = pickle.load(known)
example.fit = lambda *_: model
example.Influence.of = lambda *_: influence
example.main(sys.argv[2:])
"""


@pytest.mark.slow
def test_a_finished_run_is_read_back_unless_it_is_to_be_fresh(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run.out / "influence.zarr", tmp_path / "influence.zarr")
    for more, blocks in [((), 0), (("--fresh",), BLOCKS + 1)]:
        with monkeypatch.context() as patch:
            watch = watch_main(patch, after=run)
            assert example.main(arguments(tmp_path, *more)) == 0
            assert len(watch.computed) == blocks
            check_same(tmp_path, watch, run)


@pytest.mark.slow
def test_another_seed_takes_the_place_of_a_finished_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run.out / "influence.zarr", tmp_path / "influence.zarr")
    watch = watch_main(monkeypatch, after=run)
    assert example.main([*arguments(tmp_path), "--seed", str(SEED + 1)]) == 0
    assert len(watch.computed) == BLOCKS + 1
