"""Loader workers that die by real signals: the batches stay those of an undisturbed run, and the log says who died."""

import os
import random
import signal
import threading
import time
from collections import Counter
from multiprocessing import Pipe
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import _utils
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from datamodules import ImageTextDataModule, bounded_reader, image_samples, restarting_loader, silent_workers
from datamodules.image_folder import open_images
from datamodules.image_options import LoaderOptions
from datamodules.image_samples import ImageSamples, SampleDecoder
from datamodules.image_stream import EvaluationImages, TrainImages, TrainPlan, Workers
from datamodules.image_transforms import ImageTransform
from datamodules.resampled_stream import ResampledImages
from datamodules.sample_order import ORDER, EndlessOrder
from datamodules.shard_sources import shards_of
from datamodules.skipped import Skipped
from datamodules.worker_trace import BUSY, RESTING, WorkerTrace
from tests.datamodules.fatal_decoder import FatalDecoder
from tests.datamodules.picture_shards import write_folder
from tests.patience import PATIENCE

SIZES = [40, 3, 61]
HERE, TWO = Workers(0), Workers(2, start_method="fork")
FORK = LoaderOptions(start_method="fork")


@pytest.fixture(autouse=True)
def quick_ends(monkeypatch):
    """A dead worker may hold a lock that the polite end of the others waits for; they are killed then.

    torch looks for dead workers every five seconds, and nothing here is a test of that.
    """
    monkeypatch.setattr(bounded_reader, "SHUTDOWN", 2.0)
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.5)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("fatal"), SIZES)
    return write_folder(folder, [13], "val")


def training(folder, decoder=None, workers=HERE, batch=8, steps=13, rank=0, world=1, skipped=None):
    index = open_images(str(folder), "train")
    samples = ImageSamples(index, decoder or SampleDecoder(ImageTransform(8)), replace=True)
    plan = TrainPlan(EndlessOrder(len(index), 0, ORDER), batch, steps, rank, world)
    return TrainImages(samples, plan, workers, skipped or Skipped(1.0))


def evaluation(folder, decoder=None, workers=HERE, batch=3, skipped=None):
    samples = ImageSamples(open_images(str(folder), "val"), decoder or SampleDecoder(ImageTransform(8)), replace=False)
    return EvaluationImages(samples, batch, 0, 1, workers, skipped or Skipped(1.0))


def fatal(*keys, how="SIGKILL", once=None):
    return FatalDecoder(ImageTransform(8), fatal=keys, how=how, once=once and str(once))


def same(found, expected):
    assert [batch["key"] for batch in found] == [batch["key"] for batch in expected]
    return all(torch.equal(a["image"], b["image"]) for a, b in zip(found, expected, strict=True))


def restarts(caplog):
    return [record.message for record in caplog.records if "the loader is restarted" in record.message]


def halt_a_worker(loader, number):
    """Freeze it where it is, once it has started; returns what the log shall say that it was doing."""
    while loader.source.trace.life(number)[0] == BUSY:  # a start may take minutes, and is waited for
        time.sleep(0.01)
    pid = loader.reader._workers[number].pid
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    sample = loader.source.trace.last(number)
    return "between batches" if sample is None else f"while reading {loader.source.where(sample)}"


def kill_a_worker(loader, number=0):
    """SIGKILL from outside, as the kernel does when memory is short."""
    worker = loader.reader._workers[number]
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(10)
    return worker.pid


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("SIGKILL", "was killed by SIGKILL"),
        ("SIGSEGV", "was killed by SIGSEGV"),
        ("exit", "ended with exit code 3"),
    ],
)
def test_the_batches_are_those_of_an_undisturbed_run(shards, tmp_path, caplog, how, words):
    stream = training(shards, fatal("00017", how=how, once=tmp_path), TWO)
    assert same(list(stream), list(training(shards)))
    (line,) = restarts(caplog)
    assert line.startswith("loader worker ")
    assert f"{words} while reading train-000000.tar:00017; the loader is restarted (1 of 3)" in line


@pytest.mark.slow
def test_workers_that_are_no_forks_are_replaced_too(shards, tmp_path, caplog):
    stream = training(shards, fatal("00017", once=tmp_path), Workers(1, start_method="spawn"))
    assert same(list(stream), list(training(shards)))
    (line,) = restarts(caplog)
    assert "worker 0 of 1" in line
    assert "was killed by SIGKILL while reading train-000000.tar:00017" in line


def test_a_death_never_interrupts_the_trainer(shards, caplog):
    """torch alone raises here, in the middle of the loop: from a signal handler."""
    stream = training(shards, workers=TWO)
    found = []
    for batch in stream:
        found.append(batch)
        if len(found) == 4:
            doing = halt_a_worker(stream.loader, 1)
            pid = kill_a_worker(stream.loader, 1)
            deadline = time.monotonic() + 0.2
            while time.monotonic() < deadline:
                sum(range(1000))
    assert same(found, list(training(shards)))
    (line,) = restarts(caplog)
    assert f"worker 1 of 2 (pid {pid}) was killed by SIGKILL {doing}; the loader is restarted" in line


def test_a_scheduler_that_warns_the_whole_group_ends_no_worker(shards, caplog):
    """SIGUSR1 says that time is nearly up; its default action would end a process that does not know it."""
    stream = training(shards, workers=TWO)
    found = []
    for batch in stream:
        found.append(batch)
        if len(found) == 4:
            for worker in stream.loader.reader._workers:
                os.kill(worker.pid, signal.SIGUSR1)
    assert same(found, list(training(shards)))
    assert restarts(caplog) == []


def test_torch_alone_does(shards):
    """Why it is told not to watch the workers, see test_a_death_never_interrupts_the_trainer."""
    samples = ImageSamples(open_images(str(shards), "train"), SampleDecoder(ImageTransform(8)), replace=True)
    reader = iter(TWO._loader(samples, [[(0, 1)]] * 9))
    next(reader)
    os.kill(reader._workers[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="killed by signal"):
        time.sleep(100)


def test_restarts_draw_no_random_numbers_of_the_training(shards):
    states = []
    for kill in (False, True):
        torch.manual_seed(0)
        stream = training(shards, workers=TWO)
        for number, _ in enumerate(stream):
            if kill and number in (2, 5):
                kill_a_worker(stream.loader)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_sample_that_ends_its_worker_twice_is_replaced_like_a_broken_one(shards, tmp_path, caplog):
    skipped = Skipped(1.0)
    found = list(training(shards, fatal("00017", "00050"), TWO, steps=26, skipped=skipped))
    broken = {17: {"png": b"x"}, 50: {"png": b"x"}}
    assert same(found, list(training(write_folder(tmp_path / "broken", SIZES, bad=broken), steps=26)))
    assert {key for batch in found for key in batch["key"]}.isdisjoint({"00017", "00050"})
    assert skipped.counts == {"ends_workers": 4}  # two samples, two passes
    assert 2 <= len(restarts(caplog)) <= 4  # both may die at once
    assert "left out train-000000.tar:00017: ends_workers" in caplog.text


def test_more_deaths_than_restarts_end_in_one_line_with_a_remedy(shards, tmp_path, caplog):
    """Every sample is fatal: what is left out makes room for the next."""
    everything = fatal(*(f"{number:05d}" for number in range(sum(SIZES))))
    with pytest.raises(RuntimeError, match=r"loader.restarts=1 is used up: .*lower num_workers") as caught:
        list(training(shards, everything, Workers(1, start_method="fork", restarts=1)))
    assert "\n" not in str(caught.value)
    assert [line.split("; ")[-1] for line in restarts(caplog)] == [
        "the loader is restarted (1 of 1)",
        "the loader is restarted",
    ]
    with pytest.raises(RuntimeError, match=r"train-\d+.tar:\d+; loader.restarts=0: num_workers=0 shows"):
        list(training(shards, fatal("00017", how="exit"), Workers(1, start_method="fork", restarts=0)))


def test_deaths_long_ago_are_forgotten(shards, caplog, monkeypatch):
    monkeypatch.setattr(restarting_loader, "CALM", 20)
    stream = training(shards, workers=Workers(1, start_method="fork", restarts=1), batch=1, steps=60)
    for number, _ in enumerate(stream):
        if number in (10, 40):
            kill_a_worker(stream.loader)
    assert len(restarts(caplog)) == 2
    assert all("(1 of 1)" in line for line in restarts(caplog))


def test_evaluation_goes_on_too(shards, tmp_path, caplog):
    stream = evaluation(shards, fatal("00004", once=tmp_path), TWO)
    expected = list(evaluation(shards))
    assert same(list(stream), expected)
    kill_a_worker(stream.loader, 1)  # between two validations
    found = list(stream)
    assert same(found, expected)
    assert all(torch.equal(a["weight"], b["weight"]) for a, b in zip(found, expected, strict=True))
    assert len(restarts(caplog)) == 2
    next(iter(stream))  # a validation that is cut short, and the next one
    assert same(list(stream), expected)


def test_in_evaluation_a_quarantined_sample_weighs_nothing(shards):
    batches = list(evaluation(shards, fatal("00004"), TWO))
    weights = {key: w for b in batches for key, w in zip(b["key"], b["weight"].tolist(), strict=True)}
    assert weights == {f"{number:05d}": float(number != 4) for number in range(13)}


def test_a_worker_that_hangs_is_ended_and_replaced(shards, tmp_path, caplog):
    workers = Workers(2, start_method="fork", timeout=200.0)
    assert same(list(training(shards, fatal("00017", how="hang", once=tmp_path), workers)), list(training(shards)))
    (line,) = restarts(caplog)
    assert "was killed by SIGALRM after 200 s while reading train-000000.tar:00017" in line


def test_the_deadline_is_for_a_sample_and_not_for_a_trainer_that_is_slow(shards, monkeypatch):
    """It begins anew with each sample and is off before the batch leaves."""
    done = []
    monkeypatch.setattr(signal, "setitimer", lambda which, seconds: done.append(seconds))
    monkeypatch.setattr(SampleDecoder, "__call__", lambda *_: done.append("decoded") or {})
    samples = ImageSamples(open_images(str(shards), "train"), SampleDecoder(ImageTransform(8)), replace=True)
    samples.trace = WorkerTrace(1, timeout=7.0)
    samples.trace.own = samples.trace.samples[0].numpy()
    monkeypatch.setattr(image_samples, "collate", lambda rows: done.append(f"batch of {len(rows)}") or {})
    samples.__getitems__([(0, 5), (1, 6)])
    assert done == [7.0, "decoded", 7.0, "decoded", 0, "batch of 2", 0]


def test_a_fault_of_the_data_set_is_no_death(shards, caplog):
    with pytest.raises(RuntimeError, match="a fault of the data set"):
        list(training(shards, fatal("00017", how="raise"), TWO))
    assert restarts(caplog) == []


@pytest.mark.parametrize("trial", range(6))
def test_ranks_stay_equal_and_an_epoch_shows_each_sample_once(tmp_path, trial, caplog):
    """Random shards, ranks and workers; one rank's workers are killed at random batches, the others wait for it."""
    rng = random.Random(trial)
    world, steps = rng.choice([1, 2, 3]), rng.randint(4, 9)
    batch = world * rng.randint(1, 4)
    cuts = sorted(rng.sample(range(1, batch * steps), min(3, batch * steps - 1)))
    folder = write_folder(tmp_path, [b - a for a, b in zip([0, *cuts], [*cuts, batch * steps], strict=True)])
    many = [Workers(rng.choice([1, 2, 3]), start_method="fork") for _ in range(world)]
    ranks = [training(folder, None, many[rank], batch, steps, rank, world) for rank in range(world)]
    victim, moments = rng.randrange(world), rng.sample(range(steps - 1), 2)
    seen = []
    for step, batches in enumerate(zip(*ranks, strict=True)):
        seen += [key for found in batches for key in found["key"]]
        if step in moments:
            kill_a_worker(ranks[victim].loader, rng.randrange(many[victim].count))
    assert Counter(seen) == Counter(f"{number:05d}" for number in range(batch * steps))
    assert len(restarts(caplog)) == 2
    assert {stream.plan.position for stream in ranks} == {batch * steps}


def test_streams_without_an_index_go_on_and_leave_out_what_ends_workers(shards, caplog):
    shards_there = shards_of(str(shards), "train")
    skipped = Skipped(1.0)
    stream = ResampledImages(shards_there, fatal("00041"), 8, 120, 0, 0, 1, TWO, skipped)
    batches = list(stream)
    keys = {key for batch in batches for key in batch["key"]}
    assert len(batches) == 120
    assert stream.state_dict() == {"seed": 0, "samples": 960}
    assert "00041" not in keys
    assert len(keys) > 90
    assert all("train-000001.tar:00041" in line for line in restarts(caplog))
    assert skipped.counts["ends_workers"] >= 1


class Noisy(LightningModule):
    """Its weights show which batches came, in which order, and where the training's random numbers stood."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 8 * 8, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch["image"].flatten(1) + torch.randn(1)).pow(2).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/weight", batch["weight"].sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-4)


class Killer(Callback):
    """Kills a worker in the middle of an epoch and in the middle of a validation."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step in (3, 9):
            kill_a_worker(trainer.train_dataloader.loader)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if trainer.global_step == 6 and batch_idx == 0:
            kill_a_worker(trainer.val_dataloaders.loader)


@pytest.mark.filterwarnings("ignore:.*(does not have many workers|sync_dist|log_every_n_steps|LeafSpec)")
def test_a_training_ends_in_the_same_weights(shards, tmp_path, caplog):
    weights = []
    for callbacks in ([], [Killer()]):
        data = ImageTextDataModule(str(shards), 8, 8, 3, steps_per_epoch=6, num_workers=2, loader=FORK)
        torch.manual_seed(0)
        model = Noisy()
        options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(max_steps=14, callbacks=callbacks, default_root_dir=tmp_path, **options)
        trainer.fit(model, data)
        weights.append(model.layer.weight.detach().clone())
    assert torch.equal(*weights)
    assert len(restarts(caplog)) == 3


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(silent_workers, "LOOK", 0.05)
    monkeypatch.setattr(silent_workers, "LOST", 8.0)  # a healthy worker may be late on a busy machine


@pytest.mark.parametrize("batch", [0, 3])
def test_a_worker_that_is_stopped_is_ended_and_replaced(shards, caplog, impatient, batch):
    """SIGSTOP holds back the deadline's SIGALRM, too, and the file descriptors of batches that are on their way."""
    stream = training(shards, workers=Workers(2, start_method="fork", restarts=99, timeout=3.0))
    found = []
    for number, read in enumerate(stream):
        found.append(read)
        if number == batch:
            halt_a_worker(stream.loader, (batch + 1) % 2)
    assert same(found, list(training(shards)))
    line = restarts(caplog)[0]  # where the machine has no time for its workers, healthy ones may follow
    assert "was ended, as no batch or sign of life had come from it for" in line
    assert "the loader is restarted (1 of 99)" in line


@pytest.mark.parametrize("how", ["stopped", "stuck"])
def test_a_pass_begins_without_a_worker_that_cannot(shards, caplog, impatient, monkeypatch, how):
    """torch begins a pass by waiting for a word of every worker that it keeps, and for ever."""
    monkeypatch.setattr(silent_workers, "LOST", 2.0)
    stream = evaluation(shards, workers=Workers(2, start_method="fork", restarts=99, timeout=1.0))
    first = list(stream)
    if how == "stopped":
        halt_a_worker(stream.loader, 1)
    else:
        kill_a_worker(stream.loader, 1)
    assert same(list(stream), first)
    assert restarts(caplog)


@pytest.mark.parametrize(("looks", "expected"), [(5, []), (6, [1])])
def test_a_job_that_was_suspended_blames_no_worker(monkeypatch, looks, expected):
    """Looks are five seconds apart; between the second and the third the job is suspended for an hour."""
    clock, ended = iter([0, 5, 10, 3610, 3615, 3620, 3625]), []

    class Worker:
        pid = 1
        sentinel, end = Pipe()

        def kill(self):
            ended.append(1)

    class Off:
        def wait(self, seconds):
            nonlocal looks
            looks -= 1
            return looks < 0

    worker = Worker()
    watch = silent_workers.SilenceWatch(lambda: [(worker, (RESTING, 7))], lambda: [worker], timeout=0.1)
    monkeypatch.setattr(silent_workers, "LOST", 30.0)  # 0, 5, 15, 20, 25, 30 are counted
    monkeypatch.setattr(silent_workers, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with watch.waiting():
        watch._look(Off())
    assert ended == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iterator_that_ends_within_a_sample_is_no_end_of_the_pass(shards, workers):
    """torch takes StopIteration out of a worker for the end of all batches, without a word."""
    stream = training(shards, fatal("00017", how="stop"), Workers(workers, start_method="fork"))
    with pytest.raises(RuntimeError, match="reading a sample raised StopIteration"):
        list(stream)


@pytest.mark.parametrize(("how", "timeout"), [("lock", 0.0), ("lock-stop", 3.0), ("half", 0.0), ("half", 3.0)])
def test_nobody_waits_for_what_a_dead_worker_holds(shards, tmp_path, caplog, impatient, monkeypatch, how, timeout):
    """torch alone takes the lock of its event to note the death, and waits for the rest of a batch with it."""
    for name in ("WAKE", "LOST"):
        monkeypatch.setattr(silent_workers, name, 2.0)
    workers = Workers(2, start_method="fork", restarts=99, timeout=timeout)
    stream = training(shards, fatal("00017", how=how, once=tmp_path), workers)
    assert same(list(stream), list(training(shards)))
    assert restarts(caplog)
    if how != "lock-stop":  # there the one that waits for the lock may be ended first
        assert any("while reading train-000000.tar:00017" in line for line in restarts(caplog))


def test_if_the_end_of_one_worker_wakes_nobody_all_are_ended(impatient, monkeypatch):
    """The trainer has taken a later batch, whose file descriptor only another worker that is stopped can give."""
    for name in ("LOST", "WAKE"):
        monkeypatch.setattr(silent_workers, name, 0.1)
    over, ended = threading.Event(), []

    class Worker:
        def __init__(self, pid):
            self.pid = pid
            self.sentinel, self.end = Pipe()  # silent

        def kill(self):
            ended.append(self.pid)
            if self.pid == 2:
                over.set()

    workers = [Worker(1), Worker(2)]
    watch = silent_workers.SilenceWatch(lambda: [(workers[0], (RESTING, 7))], lambda: workers, timeout=0.1)
    with watch.on(), watch.waiting():
        assert over.wait(PATIENCE)
    assert ended[:3] == [1, 1, 2]
    assert set(watch.ended) == {1, 2}


@pytest.mark.parametrize("how", ["unpicklable", "lost"])
def test_a_batch_that_is_lost_on_its_way_ends_in_one_line(shards, caplog, impatient, how):
    """The thread that sends batches meets what it cannot pickle; the worker lives, and torch alone waits for ever."""
    samples = LostBatches(open_images(str(shards), "train"), SampleDecoder(ImageTransform(8)), how)
    plan = TrainPlan(EndlessOrder(len(samples), 0, ORDER), 8, 13, 0, 1)
    stream = TrainImages(samples, plan, Workers(1, start_method="fork", restarts=1, timeout=3.0), Skipped(1.0))
    with pytest.raises(
        RuntimeError, match=r"was ended, .* between batches; loader.restarts=1 is used up: num_w"
    ) as caught:
        list(stream)
    assert "\n" not in str(caught.value)
    assert len(restarts(caplog)) == 1


class LostBatches(ImageSamples):
    """Its third batch and all that follow cannot be sent."""

    def __init__(self, index, decoder, how):
        super().__init__(index, decoder, replace=True)
        self.how, self.sent = how, 0

    def __getitems__(self, wanted):
        batch, self.sent = super().__getitems__(wanted), self.sent + 1
        return batch if self.sent < 3 else {**batch, "odd": (lambda: 0) if self.how == "unpicklable" else Stuck()}


class Stuck:
    """The thread that pickles it never comes back."""

    def __reduce__(self):
        time.sleep(1000)


def test_metadata_that_cannot_be_pickled_are_a_bad_sample(shards, caplog):
    skipped = Skipped(1.0)
    decoder = fatal("00017", "00050", how="unpicklable")
    found = list(training(shards, decoder, Workers(1, start_method="fork"), skipped=skipped))
    assert {key for batch in found for key in batch["key"]}.isdisjoint({"00017", "00050"})
    assert skipped.counts == {"bad_json": 2}
    assert "left out train-000000.tar:00017: bad_json (its metadata cannot be handed on" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sampling", ["exact", "resampled"])
def test_deep_metadata_are_a_bad_sample_and_no_hang(tmp_path, workers, sampling):
    deep = {depth: b'{"x": ' + b"[" * depth + b"]" * depth + b"}" for depth in (63, 64, 100, 330, 500, 900, 100_000)}
    bad = {3 * place: {"json": content} for place, content in enumerate(deep.values())}
    write_folder(tmp_path, [40], bad=bad)
    options = {"metadata": ["x"], "max_skipped": 1.0, "num_workers": workers, "loader": FORK}
    data = ImageTextDataModule(str(tmp_path), 8, 8, steps_per_epoch=15, sampling=sampling, **options)
    data.setup("fit")
    keys = {key for batch in data.train_dataloader() for key in batch["key"]}
    assert keys.isdisjoint({f"{3 * place:05d}" for place in range(1, len(deep))})
    assert set(data.skipped.counts) == {"bad_json"}
    assert data.skipped.total >= len(deep) - 1
