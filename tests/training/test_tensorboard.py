"""Every curve is read back from the event files, with TensorBoard's own reader."""

from __future__ import annotations

import resource
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.mesh.plugin_data_pb2 import MeshPluginData
from tensorboard.util import tensor_util
from torch import nn

from physgym.errors import ConfigError
from physgym.nn import MLP, Optimization
from physgym.training import Callback, Checkpoints, TensorBoard, Trainer, kept_file
from physgym.training.loggers import WINDOW
from tests.support.memory_samples import linear_samples


def trainer(dataset=None, **options):
    torch.manual_seed(0)
    options = {"epochs": 2, "batch_size": 32, "progress": False, **options}
    network = options.pop("network", None) or MLP((3, 2), 4, hidden=(16,))
    return Trainer(network, dataset or linear_samples(), **options)


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    return events


def curve(events, name):
    points = events.Scalars(name)
    return [point.step for point in points], [point.value for point in points]


def tensors(events, name):
    return [tensor_util.make_ndarray(event.tensor_proto) for event in events.Tensors(name)]


def event_files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*tfevents*"))


class Do(Callback):
    """Runs a function at every end of a batch."""

    def __init__(self, action):
        self.action = action

    def batch_end(self, trainer, values):
        self.action(trainer, values)


class Energetic(Optimization):
    def transform_loss(self, loss, prediction, target):
        return {"loss": loss, "energy": 2 * loss}


# --- curves


def test_every_curve_of_a_training(tmp_path):
    network, seen = MLP((3, 2), 4, hidden=(16,)), []
    run = trainer(
        linear_samples(300),
        network=network,
        optimization=Energetic(network),
        session=tmp_path,
        callbacks=[Do(lambda trainer, values: seen.append(values["loss"]))],
        batch_size=4,
    )
    history = run.fit()
    assert len(event_files(tmp_path)) == 1
    events = read(tmp_path / "stats")
    of_both = ("loss", "loss_mean", "loss_variance", "energy", "lr")
    of_epochs = ("seconds", "samples", "validation_loss", "validation_loss_mean", "validation_loss_variance")
    assert set(events.Tags()["scalars"]) == {
        *(f"batch/{name}" for name in of_both),
        *(f"epoch/{name}" for name in (*of_both, *of_epochs, "validation_energy")),
    }

    steps = list(range(1, run.step + 1))
    windows = [seen[max(0, last - WINDOW + 1) : last + 1] for last in range(run.step)]
    assert len(windows[-1]) == 50 < run.step
    for name, expected in {
        "loss": seen,
        "loss_mean": [np.mean(window) for window in windows],
        "loss_variance": [np.var(window) for window in windows],
        "energy": 2 * np.array(seen),
        "lr": [0.001] * run.step,
    }.items():
        found = curve(events, f"batch/{name}")
        assert found[0] == steps
        np.testing.assert_allclose(found[1], expected, rtol=1e-4, atol=1e-9)

    for name in (*of_both, "seconds", "samples", "validation_loss", "validation_energy"):
        if not name.startswith("loss_"):
            assert curve(events, f"epoch/{name}") == ([1, 2], pytest.approx(history[name], rel=1e-6))
    for name in ("loss", "validation_loss"):
        first, second = history[name]
        assert curve(events, f"epoch/{name}_mean")[1] == pytest.approx([first, (first + second) / 2], rel=1e-5)
        assert curve(events, f"epoch/{name}_variance")[1] == pytest.approx([0, (first - second) ** 2 / 4], rel=1e-3)


def test_the_learning_rate_of_a_batch_is_the_one_that_it_was_optimized_with(tmp_path):
    network = MLP((3, 2), 4, hidden=())
    halving = Optimization(
        network,
        lr=0.1,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
        scheduler_every="batch",
    )
    trainer(network=network, optimization=halving, epochs=1, batches_per_epoch=4, session=tmp_path).fit()
    assert curve(read(tmp_path / "stats"), "batch/lr")[1] == pytest.approx([0.1, 0.05, 0.025, 0.0125])


def test_a_board_of_the_user_takes_the_place_of_the_own(tmp_path):
    trainer(session=tmp_path, callbacks=[TensorBoard(tmp_path / "mine")]).fit()
    assert [path.split("/")[0] for path in event_files(tmp_path)] == ["mine"]


def test_several_curves_on_one_plot(tmp_path):
    board = TensorBoard(tmp_path, charts={"terms": ["batch/loss", "batch/energy"], "rates": [".*/lr"]})
    trainer(callbacks=[board]).fit()
    (layout,) = tensors(read(tmp_path), "custom_scalars__config__")
    charts = {
        (category.title, chart.title): list(chart.multiline.tag)
        for category in layout_pb2.Layout.FromString(layout.item()).category
        for chart in category.chart
    }
    assert charts == {
        ("loss", "training and validation"): ["epoch/loss", "epoch/validation_loss"],
        ("charts", "terms"): ["batch/loss", "batch/energy"],
        ("charts", "rates"): [".*/lr"],
    }


def test_values_that_a_callback_adds_and_scalars_of_the_user(tmp_path):
    board = TensorBoard(tmp_path)

    def add(trainer, values):
        values["twice"] = torch.tensor(2.0) * values["loss"]
        board.add_scalar("mine/root", trainer.step**0.5, statistics=True)
        board.add_scalar("mine/at", 1, step=1000 + trainer.step)

    run = trainer(callbacks=[Do(add), board], epochs=1, batches_per_epoch=3)
    run.fit()
    events = read(tmp_path)
    assert curve(events, "batch/twice")[1] == pytest.approx(2 * np.array(curve(events, "batch/loss")[1]), rel=1e-6)
    roots = np.sqrt([1, 2, 3])
    assert curve(events, "mine/root") == ([1, 2, 3], pytest.approx(roots, rel=1e-6))
    assert curve(events, "mine/root_mean")[1] == pytest.approx([roots[: n + 1].mean() for n in range(3)], rel=1e-6)
    assert curve(events, "mine/root_variance")[1] == pytest.approx([roots[: n + 1].var() for n in range(3)], abs=1e-6)
    assert curve(events, "mine/at")[0] == [1001, 1002, 1003]


def test_values_that_are_no_numbers_are_named(tmp_path):
    board = TensorBoard(tmp_path)
    with pytest.raises(ConfigError, match="batch/phase has the value 'warm', a str"):
        trainer(callbacks=[Do(lambda trainer, values: values.update(phase="warm")), board]).fit()


def test_a_loss_that_is_not_finite_is_shown_and_kept_out_of_the_mean(tmp_path):
    board = TensorBoard(tmp_path)
    board.train_begin(run := trainer())
    for run._progress.step, loss in enumerate((1.0, float("nan"), 3.0, float("inf")), start=1):
        board.batch_end(run, {"loss": loss})
    board.close()
    events = read(tmp_path)
    np.testing.assert_array_equal(curve(events, "batch/loss")[1], [1, np.nan, 3, np.inf])
    assert curve(events, "batch/loss_mean")[1] == [1, 1, 2, 2]
    assert curve(events, "batch/loss_variance")[1] == [0, 0, 1, 1]


# --- histograms, meshes, figures


def test_histograms_of_weights_and_gradients(tmp_path):
    board = TensorBoard(tmp_path, histograms=True)
    run = trainer(callbacks=[board])
    run.fit()
    events = read(tmp_path)
    names = [name for name, _ in run.predictor.network.named_parameters()]
    assert set(events.Tags()["histograms"]) == {f"{what}/{name}" for what in ("weights", "gradients") for name in names}
    for name, parameter in run.predictor.network.named_parameters():
        for what, tensor in (("weights", parameter), ("gradients", parameter.grad)):
            points = events.Histograms(f"{what}/{name}")
            assert [point.step for point in points] == [1, 2]
            last = points[-1].histogram_value
            assert (last.num, last.min, last.max) == (tensor.numel(), tensor.min().item(), tensor.max().item())


def test_weights_and_gradients_have_rates_of_their_own(tmp_path):
    rates = {"a": {"weights": 2}, "b": {"gradients": 3}, "c": {"histograms": True, "weights": 0, "gradients": 2}}
    for name, rate in rates.items():
        trainer(callbacks=[TensorBoard(tmp_path / name, **rate)], epochs=4).fit()
    found = {
        (name, what): [point.step for point in read(tmp_path / name).Histograms(f"{what}/head.weight")]
        for name in rates
        for what in ("weights", "gradients")
        if f"{what}/head.weight" in read(tmp_path / name).Tags()["histograms"]
    }
    assert found == {("a", "weights"): [2, 4], ("b", "gradients"): [3], ("c", "gradients"): [2, 4]}
    with pytest.raises(ConfigError, match="weights must not be negative"):
        TensorBoard(tmp_path, weights=-1)


def test_histograms_leave_out_what_is_not_finite(tmp_path):
    class Broken(Callback):
        def epoch_end(self, trainer, values):
            trainer.predictor.network.head.weight.grad[0, 0] = np.nan

    trainer(callbacks=[Broken(), TensorBoard(tmp_path, histograms=True)], epochs=1).fit()
    names = read(tmp_path).Tags()["histograms"]
    assert "weights/head.weight" in names
    assert "gradients/head.weight" not in names


def on_a_board(folder, action):
    """Calls a function with a board that is open, and returns what was written."""
    board = TensorBoard(folder)
    trainer(callbacks=[Do(lambda trainer, values: action(board)), board], epochs=1, batches_per_epoch=1).fit()
    return read(folder)


def test_meshes_and_point_clouds(tmp_path):
    rng = np.random.default_rng(0)
    vertices, faces = rng.normal(size=(5, 3)), np.array([[0, 1, 2], [2, 3, 4]])
    colors, batch = rng.random((5, 3)), rng.normal(size=(4, 5, 3))

    def add(board):
        board.add_mesh("beam", vertices, faces, colors)
        board.add_mesh("cloud", torch.from_numpy(vertices).requires_grad_(), step=7)
        board.add_mesh("beams", batch, faces, np.full((5, 3), 9))

    events = on_a_board(tmp_path, add)
    (points,), (triangles,), (paint,) = (tensors(events, f"beam_{part}") for part in ("VERTEX", "FACE", "COLOR"))
    np.testing.assert_allclose(points, vertices[None], rtol=1e-6)
    np.testing.assert_array_equal(triangles, faces[None])
    np.testing.assert_array_equal(paint, np.round(255 * colors)[None])
    (cloud,) = events.Tensors("cloud_VERTEX")
    assert cloud.step == 7
    metadata = events.SummaryMetadata("cloud_VERTEX").plugin_data
    assert metadata.plugin_name == "mesh"
    assert MeshPluginData.FromString(metadata.content).shape == [1, 5, 3]
    assert "cloud_FACE" not in events.Tags()["tensors"]
    np.testing.assert_allclose(tensors(events, "beams_VERTEX")[0], batch, rtol=1e-6)
    np.testing.assert_array_equal(tensors(events, "beams_FACE")[0], np.stack([faces] * 4))
    assert (tensors(events, "beams_COLOR")[0] == 9).all()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((np.zeros((5, 2)),), r"vertices has shape \(5, 2\); wanted is \(n, 3\)"),
        ((np.zeros((5, 3)), [[0, 1, 5]]), "faces name vertices that are not there; there are 0 to 4"),
        ((np.zeros((5, 3)), [[-1, 1, 2]]), "faces name vertices that are not there"),
        ((np.zeros((5, 3)), [[0, 1]]), r"faces has shape \(1, 2\)"),
        ((np.zeros((5, 3)), None, np.zeros((4, 3))), r"colors has shape \(4, 3\); wanted is \(5, 3\)"),
        ((np.zeros((2, 5, 3)), np.zeros((3, 1, 3), int)), r"wanted is \(n, 3\), or a batch of 2 of that"),
    ],
)
def test_meshes_of_a_wrong_shape(tmp_path, arguments, text):
    def add(board):
        with pytest.raises(ConfigError, match=text):
            board.add_mesh("beam", *arguments)

    on_a_board(tmp_path, add)


def test_the_writer_takes_what_torch_can_write(tmp_path):
    def add(board):
        board.writer.add_image("field", np.zeros((3, 8, 8), np.uint8), 1)
        board.writer.add_text("note", "hello", 1)

    events = on_a_board(tmp_path, add)
    assert events.Tags()["images"] == ["field"]
    assert "note/text_summary" in events.Tags()["tensors"]


def test_the_writer_is_open_only_while_training(tmp_path):
    board = TensorBoard(tmp_path)
    trainer(callbacks=[board]).fit()
    for action in (lambda: board.writer, lambda: board.add_scalar("x", 1), lambda: board.add_mesh("x", [[0, 0, 0]])):
        with pytest.raises(ConfigError, match="open only while a training runs"):
            action()


# --- resume


def everything(folder):
    """All curves, without the times."""
    events = read(folder)
    scalars = {name: curve(events, name) for name in events.Tags()["scalars"] if name != "epoch/seconds"}
    others = {
        name: [event.step for event in of(name)]
        for kind, of in (("histograms", events.Histograms), ("tensors", events.Tensors))
        for name in events.Tags()[kind]
    }
    return scalars, others


class Fails(Exception):
    pass


def board_of(folder):
    return TensorBoard(folder / "stats", histograms=True)


def session(folder, fail_at=None, resume=False, epochs=4):
    """A training with a checkpoint every seven batches, eight batches per epoch, which fails after some batch."""
    board = board_of(folder)

    def fail(trainer, values):
        board.add_scalar("mine", trainer.step, statistics=True)
        if trainer.step == fail_at:
            raise Fails

    run = trainer(
        epochs=epochs,
        session=folder,
        callbacks=[Do(fail), board, Checkpoints(folder / "networks", steps=7, every=3)],
        resume=resume,
    )
    assert run.num_batches == 8
    return run


@pytest.mark.slow
@pytest.mark.parametrize("failures", [(20,), (12, 27), (27, 26, 31), (23, 24, 25)])
def test_a_resumed_training_has_the_curves_of_one_that_was_never_interrupted(tmp_path, failures):
    session(tmp_path / "whole").fit()
    folder = tmp_path / "parts"
    for number, fail_at in enumerate(failures):
        with pytest.raises(Fails):
            session(folder, fail_at, resume=number > 0).fit()
    session(folder, resume=True).fit()
    assert everything(folder / "stats") == everything(tmp_path / "whole" / "stats")


def test_training_on_in_the_same_process_continues_the_curves(tmp_path):
    class Stops(Callback):
        def batch_end(self, trainer, values):
            if trainer.step == 11:
                trainer.stop("enough")

    options = {"epochs": 3, "batch_size": 32}
    trainer(session=tmp_path / "whole", **options).fit()
    run = trainer(session=tmp_path / "parts", callbacks=[Stops()], **options)
    run.fit()
    run.fit()
    assert everything(tmp_path / "parts" / "stats") == everything(tmp_path / "whole" / "stats")


def test_a_new_training_in_the_same_session_is_a_run_of_its_own(tmp_path):
    for epochs in (1, 2, 3):
        trainer(session=tmp_path, epochs=epochs, record=False).fit()
    for place, epochs in (("", 1), ("run-2", 2), ("run-3", 3)):
        assert curve(read(tmp_path / "stats" / place), "epoch/loss")[0] == list(range(1, epochs + 1))


def test_a_resumed_run_in_a_subfolder_goes_on_there(tmp_path):
    trainer(session=tmp_path, epochs=2, record=False).fit()
    trainer(session=tmp_path, epochs=2, record=False).fit()
    before = event_files(tmp_path)
    trainer(session=tmp_path, epochs=4, resume=True).fit()
    assert curve(read(tmp_path / "stats/run-2"), "epoch/loss")[0] == [1, 2, 3, 4]
    assert curve(read(tmp_path / "stats"), "epoch/loss")[0] == [1, 2]
    assert set(before) < set(event_files(tmp_path))


def test_files_of_others_are_not_touched_by_a_resumed_training(tmp_path):
    trainer(session=tmp_path / "a", epochs=2).fit()
    other = tmp_path / "b"
    trainer(session=other, epochs=5).fit()
    foreign = other / "stats" / "events.out.tfevents.1.somebody"
    foreign.write_bytes(b"theirs")
    before = {path: (other / path).read_bytes() for path in event_files(other)}
    trainer(session=other, epochs=3, resume=tmp_path / "a/networks").fit()
    assert {path: (other / path).read_bytes() for path in before} == before
    assert curve(read(other / "stats/run-2"), "epoch/loss")[0] == [3]  # resumed in another session: a run of its own


# --- disks


@contextmanager
def files_of_at_most(size):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Limit(Callback):
    """Lets the disk be full from one step to another one."""

    def __init__(self, first, last):
        self.first, self.last = first, last

    def batch_end(self, trainer, values):
        if trainer.step == self.first:
            self.block = files_of_at_most(20_000)
            self.block.__enter__()
        elif trainer.step == self.last:
            self.block.__exit__(None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("histograms", [False, True])
def test_a_disk_that_is_full_for_a_while_ends_nothing_and_loses_nothing(tmp_path, histograms):
    board = TensorBoard(tmp_path, histograms=histograms)
    run = trainer(callbacks=[Limit(10, 800), board], epochs=40, batch_size=8)
    with pytest.warns(RuntimeWarning, match=f"written to {tmp_path}.* now: File too large. They are kept") as seen:
        run.fit()
    assert len(seen) == 1
    assert run.epoch == 40
    assert curve(read(tmp_path), "batch/loss")[0] == list(range(1, run.step + 1))
    assert curve(read(tmp_path), "epoch/loss")[0] == list(range(1, 41))


@pytest.mark.slow
def test_a_disk_that_stays_full_costs_the_last_curves_alone(tmp_path):
    run = trainer(callbacks=[TensorBoard(tmp_path)], epochs=40, batch_size=8)
    with (
        files_of_at_most(20_000),
        pytest.warns(RuntimeWarning, match="They are kept in memory"),
        pytest.warns(RuntimeWarning, match="given up"),
    ):
        run.fit()
    assert run.epoch == 40
    steps = curve(read(tmp_path), "batch/loss")[0]
    assert steps == list(range(1, len(steps) + 1))  # what was written before can be read
    assert steps


@pytest.mark.slow
def test_what_does_not_fit_into_the_memory_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_file, "KEPT", 10_000)
    run = trainer(callbacks=[TensorBoard(tmp_path)], epochs=40, batch_size=8)
    with files_of_at_most(20_000), pytest.warns(RuntimeWarning) as seen:
        run.fit()
    assert [("now:" in str(w.message), "left out" in str(w.message), "given up" in str(w.message)) for w in seen] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


def test_a_folder_that_is_deleted_is_made_again(tmp_path):
    class Delete(Callback):
        def epoch_begin(self, trainer):
            if trainer.epoch == 1:
                shutil.rmtree(tmp_path / "stats")

    with pytest.warns(RuntimeWarning, match="was deleted; its curves continue in a new file"):
        trainer(callbacks=[Delete(), TensorBoard(tmp_path / "stats")], epochs=3).fit()
    assert curve(read(tmp_path / "stats"), "epoch/loss")[0] == [2, 3]


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "stats"):
        with pytest.raises(ConfigError, match=f"cannot be written to {folder}"):
            trainer(callbacks=[TensorBoard(folder)]).fit()


def test_reading_while_it_trains(tmp_path):
    seen = []

    class Reader(Callback):
        def epoch_end(self, trainer, values):
            seen.append(curve(read(tmp_path), "epoch/loss")[0] if trainer.epoch > 1 else [])

    trainer(callbacks=[TensorBoard(tmp_path), Reader()], epochs=3).fit()
    assert seen == [[], [1, 2], [1, 2, 3]]


def test_curves_take_no_random_numbers(tmp_path):
    """A training with curves has the same result as one without."""
    results = []
    for callbacks in ([], [TensorBoard(tmp_path, histograms=True)]):
        network = nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.Dropout(), nn.Linear(16, 4))
        torch.manual_seed(0)
        for layer in (network[1], network[3]):
            layer.reset_parameters()
        trainer(network=network, callbacks=callbacks).fit()
        results.append(network[3].weight.detach())
    assert torch.equal(*results)
