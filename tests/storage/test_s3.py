from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from physgym.data import upload as mirrors
from physgym.data.dataset import SampleDataset
from physgym.data.remote import has_samples
from physgym.data.summary import summarize
from physgym.data.writer import SampleWriter
from physgym.errors import CheckpointError, ConfigError, DatasetError, StorageError
from physgym.experiment.config import check_config
from physgym.experiment.runs import train
from physgym.experiment.viewing import view
from physgym.files import try_lock
from physgym.formats.archive import archive
from physgym.generation.generate import generate
from physgym.nn import MLP, Predictor
from physgym.report.reports import write_report
from physgym.rl.recorder import Recorder
from physgym.sample import Field, SampleSpec
from physgym.storage import Location
from physgym.storage import cache as caches
from physgym.storage import s3 as stores
from physgym.storage.cache import Cache, Entry
from physgym.storage.s3 import S3Backend
from physgym.storage.s3_location import S3Location
from physgym.testing.storages import StorageConformance
from physgym.training import Trainer
from physgym.training.checkpoint_files import load_checkpoint, save_checkpoint
from physgym.training.checkpoint_folders import find_checkpoint, list_checkpoints
from physgym.training.checkpointing import Checkpoints
from tests.rl import test_cache as cached
from tests.rl.test_recorder import Counter, check, drive
from tests.support.datasets import PARAMETERS, SOURCE, SPEC, assert_rows, rows, where, write
from tests.support.killing import contents
from tests.support.s3 import Proxy

SECRET, KEY = "sEcReT/of+the/user", "AKIAOFTHEUSER"
SMALL = 1000  # bytes of a partition: seven samples


@pytest.fixture(scope="module")
def server():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    proxy = Proxy(moto.get_host_and_port()[1])
    yield moto.get_host_and_port()[1], proxy
    proxy.close()
    moto.stop()


class Bucket:
    """A bucket of its own; `client` gets to it past the proxy."""

    def __init__(self, port: int, proxy: Proxy) -> None:
        self.name, self.proxy = f"b-{uuid.uuid4().hex}", proxy
        self.client = stores._client(f"http://127.0.0.1:{port}", None, None, 60.0, os.getpid(), None)
        self.client.create_bucket(Bucket=self.name)

    def url(self, prefix: str = "data") -> str:
        return f"s3://{self.name}/{prefix}?endpoint=http://127.0.0.1:{self.proxy.port}"

    def objects(self) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return {
            entry["Key"]: self.client.get_object(Bucket=self.name, Key=entry["Key"])["Body"].read() for entry in listed
        }

    def description(self, prefix: str = "data") -> dict:
        body = self.client.get_object(Bucket=self.name, Key=f"{prefix}/dataset.json")["Body"]
        return json.loads(body.read())

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)


@pytest.fixture
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PHYSGYM_S3_PATIENCE", "0.2")
    monkeypatch.setattr(stores, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(mirrors, "PAUSE", 0.05)


@pytest.fixture
def bucket(server, environment):
    bucket = Bucket(*server)
    yield bucket
    bucket.proxy.reset()
    left = [thread.name for thread in threading.enumerate() if "s3://" in thread.name or "writer of" in thread.name]
    assert not left


class TestS3Backend(StorageConformance):
    @pytest.fixture
    def backend(self, bucket):
        return S3Backend(Location.parse(bucket.url("place")))


def opened(url: str, **options) -> SampleWriter:
    return SampleWriter(url, SPEC, source=SOURCE, **{"max_file_size": SMALL, **options})


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.02)


def partitions(bucket: Bucket, mode: str = "training") -> list[bytes]:
    """The partitions as the description names them."""
    objects = bucket.objects()
    return [objects[f"data/{part['object']}"] for part in bucket.description()["modes"][mode]["partitions"]]


def local_partitions(folder: Path, count: int, **options) -> list[bytes]:
    write(folder, count, **options)
    return [data for name, data in contents(folder).items() if name.endswith(".h5")]


# --- addresses


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://bucket", S3Location("bucket")),
        ("s3://bucket/", S3Location("bucket")),
        ("s3://bucket/a/b/", S3Location("bucket", "a/b")),
        ("s3://b.c-d/a b?endpoint=http://localhost:9000/", S3Location("b.c-d", "a b", "http://localhost:9000")),
        ("s3://bucket/a?region=eu-west-1&profile=me", S3Location("bucket", "a", None, "eu-west-1", "me")),
        ("s3://bucket/a?endpoint=https://x.org/v1/s3", S3Location("bucket", "a", "https://x.org/v1/s3")),
    ],
)
def test_an_address_names_a_place_also_after_pathlib_had_it(text, place):
    assert Location.parse(text) == place
    assert Location.parse(str(Path(text))) == place
    assert Location.parse(str(place)) == place


@pytest.mark.parametrize(
    "text",
    [
        *("s3://", "s3://b", "s3:///a", "s3://bucket//a", "s3://bucket/a/../b", "s3://bucket/./a", "s3://b_*/a"),
        *("s3://bucket/a?endpoint=localhost:9000", "s3://bucket/a?endpoint=ftp://x"),
        "s3://me:" + SECRET.replace("/", "") + "@bucket/a",
        "s3://bucket/a?endpoint=http://me:" + SECRET.replace("/", "") + "@host",
        "s3://bucket/a?aws_secret_access_key=" + SECRET,
    ],
)
def test_what_is_no_address_is_refused_without_repeating_a_secret(text):
    with pytest.raises(ConfigError) as error:
        Location.parse(text)
    assert SECRET not in str(error.value)
    assert SECRET.replace("/", "") not in str(error.value)


@pytest.mark.slow
def test_without_boto3_the_error_names_the_extra_and_nothing_else_needs_it(tmp_path):
    code = (
        "import sys; sys.modules['boto3'] = None\n"
        "import physgym, physgym.generation.generate, physgym.training\n"
        "assert not any(name.startswith('botocore') for name in sys.modules)\n"
        "from physgym.data.dataset import SampleDataset\n"
        "from physgym.errors import ConfigError\n"
        "try: SampleDataset('s3://bucket/data')\n"
        "except ConfigError as error: print(error)\n"
    )
    environment = {**os.environ, "PHYSGYM_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=110, check=True
    )
    assert "pip install 'physgym[s3]'" in done.stdout


# --- datasets


@pytest.mark.slow
def test_a_dataset_in_s3_has_the_bytes_of_a_local_one(bucket, tmp_path):
    options = {"max_file_size": SMALL, "parameters": PARAMETERS, "rejected": True}
    dataset = write(bucket.url(), 40, **options)
    assert_rows(dataset, 0, 40)
    dataset.verify()
    assert repr(dataset).startswith(f"SampleDataset(s3://{bucket.name}/data?")
    assert partitions(bucket) == local_partitions(tmp_path / "local", 40, **options)
    assert set(bucket.description()) == {"format", "version", "modes"}  # the claim is given up
    described = bucket.description()["modes"]["training"]
    assert described["samples"] == 40
    assert len(bucket.objects()) == 1 + len(described["partitions"])  # and nothing else is there


@pytest.mark.slow
def test_what_is_written_is_read_again_without_downloading_it(bucket):
    write(bucket.url(), 40, max_file_size=SMALL)
    assert not [request for request in bucket.proxy.requests if request.startswith("GET") and ".h5" in request]


@pytest.mark.slow
def test_another_machine_reads_it_and_downloads_each_partition_once(bucket, tmp_path, monkeypatch):
    write(bucket.url(), 40, max_file_size=SMALL)
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "other"))
    for _ in range(2):
        dataset = SampleDataset(bucket.url())
        assert_rows(dataset, 0, 40)
        assert_rows(pickle.loads(pickle.dumps(dataset)), 0, 40)  # noqa: S301  # as a DataLoader's worker gets it
    got = [request for request in bucket.proxy.requests if request.startswith("GET") and ".h5" in request]
    assert len(got) == len(set(got)) == len(dataset.partitions)
    assert next(summarize(bucket.url())).startswith("training: 40 samples")
    assert has_samples(Location.parse(bucket.url()))
    assert not has_samples(Location.parse(bucket.url()), "validation")


@pytest.mark.slow
def test_a_dataset_there_is_viewed_here(bucket, tmp_path):
    write(bucket.url(), 7, mode="validation")
    shown = view(bucket.url(), samples=7, size=(200, 150))  # the only mode that there is
    assert [shown.timeline.episode.tolist(), shown.timeline.step.tolist()] == [[0] * 5 + [1] * 2, [0, 1, 2, 3, 4, 0, 1]]
    film = shown.save(tmp_path / "film.gif")
    assert len(film.frames) == 7


@pytest.mark.slow
def test_a_dataset_there_has_a_report_here(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(bucket.url(), 40)
    assert write_report(bucket.url()) == tmp_path / "data-report.html"
    assert f"samples of toy/Line-v0, in s3://{bucket.name}/data" in (tmp_path / "data-report.html").read_text()
    with pytest.raises(DatasetError, match="there is no dataset at s3://"):
        write_report(bucket.url("nothing"))


@pytest.mark.slow
def test_the_first_samples_need_the_first_partition_only(bucket, tmp_path, monkeypatch):
    write(bucket.url(), 40, max_file_size=SMALL)
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "other"))
    assert_rows(SampleDataset(bucket.url(), mini=3), 0, 3)
    assert len([request for request in bucket.proxy.requests if request.startswith("GET") and ".h5" in request]) == 1


def test_modes_share_a_place(bucket, tmp_path, monkeypatch):
    write(bucket.url(), 20, max_file_size=SMALL)
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "other"))
    assert_rows(write(bucket.url(), 30, start=20, mode="validation"), 20, 30)
    assert_rows(SampleDataset(bucket.url()), 0, 20)
    assert set(bucket.description()["modes"]) == {"training", "validation"}


@pytest.mark.slow
def test_a_dataset_is_continued_to_the_bytes_of_one_made_at_once(bucket, tmp_path, monkeypatch):
    write(bucket.url(), 10, max_file_size=SMALL)
    with pytest.raises(DatasetError, match="already holds training samples"):
        write(bucket.url(), 40)
    write(bucket.url(), 25, start=10, max_file_size=SMALL, resume=True)
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "other"))  # on another machine
    assert_rows(write(bucket.url(), 40, start=25, max_file_size=SMALL, resume=True), 0, 40)
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "cache"))  # and on the first one, which has an older copy
    assert_rows(write(bucket.url(), 50, start=40, max_file_size=SMALL, resume=True), 0, 50)
    assert partitions(bucket) == local_partitions(tmp_path / "local", 50, max_file_size=SMALL)
    assert len(bucket.objects()) == 1 + len(partitions(bucket))  # superseded partitions are deleted


@pytest.mark.slow
def test_generation_and_training_take_addresses(bucket, tmp_path):
    options = {"seed": 3, "num_workers": 1, "progress": False, "max_file_size": SMALL, "max_steps": 10}
    generate("physgym/Spring-v0", bucket.url(), samples=30, **options)
    dataset = generate("physgym/Spring-v0", bucket.url(), samples=60, resume=True, **options)
    local = generate("physgym/Spring-v0", tmp_path / "local", samples=60, **options)
    assert partitions(bucket) == [part.path.read_bytes() for part in local.partitions]

    def trainer(data, folder, epochs, **more):
        torch.manual_seed(0)
        network = MLP.from_spec(data.spec, hidden=(8,))
        saving = Checkpoints(folder, keep=1, best=False)
        return Trainer(network, data, epochs=epochs, callbacks=[saving], progress=False, seed=1, **more)

    trainer(dataset, bucket.url("networks"), 1).fit()
    resumed = trainer(dataset, bucket.url("networks"), 2, resume=True)
    resumed.fit()
    whole = trainer(local, tmp_path / "networks", 2)
    whole.fit()
    assert [at.name for at in list_checkpoints(Location.parse(bucket.url("networks")))] == ["epoch-0002"]
    here, there = load_checkpoint(tmp_path / "networks"), load_checkpoint(bucket.url("networks"), "best")
    assert here.state_dict().keys() == there.state_dict().keys()
    first = next(iter(local))
    for name, value in here.predict(first).items():
        np.testing.assert_array_equal(there.predict(first)[name], value)


# --- while it is written


@pytest.mark.slow
def test_sealed_partitions_are_uploaded_in_the_background(bucket):
    with opened(bucket.url()) as writer:
        writer.append(rows(0, 40), **where(0, 40))
        until(lambda: len(bucket.description()["modes"].get("training", {}).get("partitions", [])) >= 2)
        seen = SampleDataset(bucket.url())
        assert_rows(seen, 0, len(seen))
        assert 0 < len(seen) < 40
    assert seen.refresh() > 0
    assert_rows(seen, 0, 40)


@pytest.mark.slow
def test_of_an_open_partition_a_copy_is_uploaded_from_time_to_time(bucket, monkeypatch):
    monkeypatch.setenv("PHYSGYM_S3_INTERVAL", "0.1")
    with opened(bucket.url(), max_file_size=1 << 20) as writer:
        for stop in (10, 20):
            writer.append(rows(stop - 10, stop), **where(stop - 10, stop))
            until(lambda stop=stop: bucket.description()["modes"].get("training", {}).get("samples") == stop)
            assert_rows(SampleDataset(bucket.url()), 0, stop)
    assert_rows(SampleDataset(bucket.url()), 0, 20)
    assert len(bucket.objects()) == 2


@pytest.mark.slow
def test_after_an_error_everything_committed_is_in_s3(bucket, tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError), opened(bucket.url()) as writer:  # noqa: PT012
        writer.append(rows(0, 30), **where(0, 30))
        raise ZeroDivisionError
    assert_rows(SampleDataset(bucket.url()), 0, 30)
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "other"))
    write(bucket.url(), 40, start=30, max_file_size=SMALL, resume=True)
    assert partitions(bucket) == local_partitions(tmp_path / "local", 40, max_file_size=SMALL)


def test_a_dataset_without_samples_leaves_nothing(bucket):
    opened(bucket.url()).close()
    assert bucket.objects() == {}
    write(bucket.url(), 10)


@pytest.mark.slow
def test_a_description_never_names_an_object_that_is_not_there(bucket, monkeypatch):
    monkeypatch.setenv("PHYSGYM_S3_INTERVAL", "0.1")
    checked = []

    def look() -> None:
        objects = bucket.objects()
        for described in json.loads(objects.get("data/dataset.json", b'{"modes": {}}'))["modes"].values():
            missing = [part["object"] for part in described["partitions"] if f"data/{part['object']}" not in objects]
            assert not missing
            checked.append(described["samples"])

    for name in ("replace", "upload", "delete"):
        whole = getattr(S3Backend, name)

        def watched(*args, whole=whole, **kwargs):
            look()
            answer = whole(*args, **kwargs)
            look()
            return answer

        monkeypatch.setattr(S3Backend, name, watched)
    write(bucket.url(), 25, max_file_size=SMALL)
    write(bucket.url(), 40, start=25, max_file_size=SMALL, resume=True)
    assert 0 < min(checked) <= max(checked) == 40
    assert checked == sorted(checked)  # and no sample disappears in between


# --- the server goes away


@pytest.mark.slow
def test_a_server_that_comes_back_soon_is_not_noticed(bucket):
    bucket.proxy.plan.extend([("refuse",), ("refuse",), None, ("refuse",), None, ("refuse",)])
    assert_rows(write(bucket.url(), 40, max_file_size=SMALL), 0, 40)
    assert not bucket.proxy.plan


@pytest.mark.slow
def test_a_recording_that_was_not_uploaded_goes_on_with_episodes_of_its_own(bucket):
    for away in (False, True, False):
        env = Recorder(Counter(), bucket.url(), resume=True)
        drive(env, 1)
        bucket.proxy.away = away
        drive(env, 2)
        with pytest.raises(StorageError) if away else contextlib.nullcontext():
            env.close()
        bucket.proxy.away = False
    check(SampleDataset(bucket.url()), 9)


@pytest.mark.slow
def test_an_agent_learns_from_recordings_in_a_bucket(bucket, tmp_path):
    cache = cached.cache_of([cached.record(bucket.url(), 4), cached.record(tmp_path / "rest", 3, 4)], stack=3)
    assert sorted(cached.check(cached.whole(cache), 3)) == cached.ALL


@pytest.mark.slow
def test_while_the_server_is_away_nothing_is_lost_and_the_error_says_where_it_is(bucket, tmp_path, caplog):
    writer = opened(bucket.url())
    writer.append(rows(0, 20), **where(0, 20))
    until(lambda: bucket.description()["modes"])
    bucket.proxy.away = True
    for start in range(20, 40, 10):  # generation goes on
        writer.append(rows(start, start + 10), **where(start, start + 10))
        writer.commit()
    until(lambda: "the samples stay in" in caplog.text)
    with pytest.raises(StorageError, match=r"for \d+ s\. Look whether.*Nothing is lost: all samples are in") as error:
        writer.close()
    assert str(writer.path) in str(error.value)
    assert_rows(SampleDataset(writer.path), 0, 40)
    with pytest.raises(StorageError, match=r"cannot read dataset.json"):
        SampleDataset(bucket.url())
    bucket.proxy.away = False
    seen = SampleDataset(bucket.url())  # what it has is whole
    assert_rows(seen, 0, len(seen))
    with pytest.raises(DatasetError, match="already holds"):
        opened(bucket.url())
    with opened(bucket.url(), resume=True) as writer:
        assert writer.count == 40
    assert_rows(SampleDataset(bucket.url()), 0, 40)
    assert partitions(bucket) == local_partitions(tmp_path / "local", 40, max_file_size=SMALL)
    assert len(bucket.objects()) == 1 + len(partitions(bucket))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the one dropped
def test_ctrl_c_ends_the_wait_for_a_server_and_loses_nothing(bucket, monkeypatch):
    monkeypatch.setenv("PHYSGYM_S3_PATIENCE", "60")
    writer = opened(bucket.url())
    writer.append(rows(0, 20), **where(0, 20))
    # once this thread has come to wait, and again: in a callback of a weak reference, as of h5py, Python drops one
    refusals = itertools.count()
    bucket.proxy.refused = lambda: next(refusals) % 5 == 2 and os.kill(os.getpid(), signal.SIGINT)
    bucket.proxy.away = True
    with pytest.raises(KeyboardInterrupt):
        writer.close()
    bucket.proxy.away = False
    with opened(bucket.url(), resume=True) as writer:
        assert writer.count == 20
    assert_rows(SampleDataset(bucket.url()), 0, 20)


LARGE = 6 << 20  # bytes


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr(stores, "PART", 5 << 20)  # the least that S3 takes


@pytest.mark.parametrize(
    "plan",
    [
        [],
        [None, None, ("up", 3 << 20), None, ("up", 1000)],  # in the middle of parts
        [("lose",)] * 2,  # answers are lost: an upload that was begun is begun again
        [None, None, None, None, ("lose",)],  # it was completed, and the answer lost
    ],
)
def test_uploads_in_parts_go_on_where_they_broke_off(bucket, tmp_path, parts, plan):
    data = np.random.default_rng(0).bytes(LARGE)
    (tmp_path / "file").write_bytes(data)
    store = S3Backend(Location.parse(bucket.url()))
    bucket.proxy.plan.extend(plan)
    store.upload(tmp_path / "file", "object")
    assert bucket.objects() == {"data/object": data}
    assert not bucket.proxy.plan


def test_an_upload_that_fails_leaves_no_parts(bucket, tmp_path, parts):
    (tmp_path / "file").write_bytes(bytes(LARGE))
    store = S3Backend(Location.parse(bucket.url()), patience=0.0)
    bucket.proxy.plan.extend([None, None, *[("up", 1000)] * 3])
    begun = []
    with pytest.raises(StorageError, match="cannot upload object"):
        store.upload(tmp_path / "file", "object", begun.append)
    assert len(begun) == 1
    assert "Uploads" not in bucket.client.list_multipart_uploads(Bucket=bucket.name)


@pytest.mark.slow
def test_parts_that_a_killed_writer_left_are_given_up(bucket, parts, monkeypatch):
    large = SampleSpec([Field("x", (1 << 20,), np.dtype("f4"), "input")])

    def writer(**options):
        return SampleWriter(bucket.url(), large, **options)

    one = writer()
    values = np.ones((2, 1 << 20), np.float32)
    one.append({"x": values}, episode=np.arange(2), step=np.zeros(2, int), seed=np.zeros(2, int))
    with monkeypatch.context() as dying:
        dying.setattr(S3Backend, "abort", lambda *args: False)
        bucket.proxy.plan.extend([None, None, *[("up", 1000)] * 30])
        with pytest.raises(StorageError, match="Nothing is lost"):
            one.close()
    assert bucket.client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    bucket.proxy.plan.clear()
    writer(resume=True).close()
    assert "Uploads" not in bucket.client.list_multipart_uploads(Bucket=bucket.name)
    np.testing.assert_array_equal(SampleDataset(bucket.url())[:]["x"], values)


@pytest.mark.parametrize("fault", [("lose",), ("up", 10), ("down", 10), ("down", 60), ("refuse",)])
def test_a_conditional_write_whose_answer_is_lost_is_no_conflict(bucket, fault):
    store = S3Backend(Location.parse(bucket.url()))
    bucket.proxy.plan.append(fault)
    tag = store.replace("description", b"one", None)
    bucket.proxy.plan.append(fault)
    tag = store.replace("description", b"two", tag)
    bucket.put("data/description", b"of another")
    for stale in (tag, None):
        with pytest.raises(StorageError, match="written by somebody else"):
            store.replace("description", b"three", stale)
    assert store.read("description")[0] == b"of another"


def test_downloads_go_on_where_they_broke_off(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "LARGEST_READ", 1 << 16)
    data = np.random.default_rng(0).bytes(LARGE)
    bucket.put("data/object", data)
    bucket.proxy.plan.extend([("down", 2 << 20), ("refuse",), ("down", 3 << 20), ("down", 100)])
    entry = Entry("file", hashlib.sha256(data).hexdigest(), LARGE, "object")
    (tmp_path / "file").touch()
    store = S3Backend(Location.parse(bucket.url()))
    sent = []
    got = store._client.get_object
    monkeypatch.setattr(
        store, "_client", type("Client", (), {"get_object": lambda _, **a: sent.append(a) or got(**a)})()
    )
    store.download(entry, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == data
    begins = [int(request["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in request else 0 for request in sent]
    assert begins == sorted(begins)
    assert begins[-1] > 4 << 20  # nothing is fetched twice


# --- what is damaged


def test_what_is_damaged_on_the_way_is_fetched_again(bucket, tmp_path, monkeypatch, caplog):
    write(bucket.url(), 40)
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "other"))
    bucket.proxy.plan.extend([None, ("flip", 2000)])
    dataset = SampleDataset(bucket.url())
    assert_rows(dataset, 0, 40)
    dataset.verify()
    assert "fetched again" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:], "its checksum is wrong"),
        (lambda data: data[:-1], r"is damaged: it has \d+ bytes instead of"),
        (lambda data: b"", "is damaged: it has 0 bytes"),
        (None, "though s3://.* names it"),
    ],
)
def test_damaged_objects_are_named_and_not_kept(bucket, tmp_path, monkeypatch, change, message):
    write(bucket.url(), 40)
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "other"))
    (key,) = (key for key in bucket.objects() if key.endswith(".h5"))
    whole = bucket.objects()[key]
    if change is None:
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    else:
        bucket.put(key, change(whole))
    with pytest.raises(StorageError, match=message):
        SampleDataset(bucket.url())
    bucket.put(key, whole)
    assert_rows(SampleDataset(bucket.url()), 0, 40)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(version=3),
        lambda d: d.pop("modes"),
        lambda d: d["modes"]["training"]["partitions"][0].update(file="../../x.h5"),
        lambda d: d["modes"]["training"]["partitions"][0].update(file="validation-00000.h5"),
        lambda d: d["modes"]["training"]["partitions"][0].update(object="../x"),
        lambda d: d["modes"]["training"]["partitions"][0].update(digest="../x"),
        lambda d: d["modes"]["training"]["partitions"][0].update(size=-1),
        lambda d: d["modes"]["training"]["partitions"][0].pop("digest"),
    ],
)
def test_a_damaged_description_is_an_error(bucket, change):
    write(bucket.url(), 10)
    description = bucket.description()
    change(description)
    bucket.put("data/dataset.json", json.dumps(description).encode())
    with pytest.raises(StorageError, match="is no description of a dataset"):
        SampleDataset(bucket.url())


@pytest.mark.slow
def test_a_reader_with_an_old_description_reads_the_new_one(bucket, tmp_path, monkeypatch):
    write(bucket.url(), 10, max_file_size=SMALL)
    old = bucket.objects()["data/dataset.json"]
    write(bucket.url(), 40, start=10, max_file_size=SMALL, resume=True)  # replaces the last partition
    now = bucket.objects()["data/dataset.json"]
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "other"))
    whole, answers = S3Backend.read, [old]
    monkeypatch.setattr(S3Backend, "read", lambda self, name: (answers.pop(), "") if answers else whole(self, name))
    assert_rows(SampleDataset(bucket.url()), 0, 40)
    assert bucket.objects()["data/dataset.json"] == now


def test_a_file_of_the_cache_that_was_cut_short_is_fetched_again(bucket):
    dataset = write(bucket.url(), 40)
    file = dataset.partitions[0].path.resolve()
    with file.open("r+b") as cut:
        cut.truncate(file.stat().st_size - 1)
    assert_rows(SampleDataset(bucket.url()), 0, 40)


# --- several writers


@pytest.mark.slow
def test_a_second_writer_is_refused_or_takes_over_and_the_first_one_hears_of_it(bucket, tmp_path, monkeypatch):
    first = opened(bucket.url())
    with pytest.raises(DatasetError, match="is being written by this process"):
        opened(bucket.url(), resume=True)  # on the same machine
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "other"))
    with pytest.raises(DatasetError, match="is being written, or its writer was killed"):
        opened(bucket.url())
    write(bucket.url(), 30, max_file_size=SMALL, resume=True)
    before = bucket.objects()
    first.append(rows(0, 7), **where(0, 7))
    with pytest.raises(StorageError, match="another writer has taken over"):
        first.close()
    assert_rows(SampleDataset(first.path), 0, 7)
    assert bucket.objects()["data/dataset.json"] == before["data/dataset.json"]
    assert_rows(SampleDataset(bucket.url()), 0, 30)
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(StorageError, match="was continued elsewhere, while"):
        opened(bucket.url(), resume=True)


@pytest.mark.slow
def test_a_writer_that_was_overtaken_stops_soon(bucket, tmp_path, monkeypatch):
    writer = opened(bucket.url())
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "other"))
    write(bucket.url(), 30, max_file_size=SMALL, resume=True)
    taken = 0

    def refused() -> bool:
        nonlocal taken
        try:
            writer.append(rows(taken, taken + 5), **where(taken, taken + 5))
        except StorageError:
            return True
        taken += 5
        return False

    until(refused)
    writer.close()
    assert_rows(SampleDataset(writer.path), 0, taken)  # what it took is on the disk, the buffer's content as well


# --- killed writers

CHILD = """
import time
from tests.support import sizes
from tests.support.datasets import SOURCE, SPEC, rows, where
from physgym.data.writer import SampleWriter
writer = SampleWriter({url!r}, SPEC, source=SOURCE, max_file_size={size})
writer.append(rows(0, 20), **where(0, 20))
writer.commit()
print("committed", flush=True)
time.sleep(60)
"""


def child(code: str) -> subprocess.Popen:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["cache", "other"])
@pytest.mark.parametrize("uploaded", [False, True])
def test_a_killed_writer_is_continued(bucket, tmp_path, monkeypatch, machine, uploaded):
    if not uploaded:
        bucket.proxy.allowed = 2  # to look what is there, and to claim it
    with child(CHILD.format(url=bucket.url(), size=SMALL)) as writing:
        try:
            assert writing.stdout.readline() == "committed\n"
            if uploaded:
                until(lambda: bucket.description()["modes"])
        finally:
            writing.kill()
    bucket.proxy.away, bucket.proxy.allowed = False, None
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / machine))
    with pytest.raises(DatasetError, match="already holds" if uploaded else "is being written, or its writer was kill"):
        opened(bucket.url())
    with opened(bucket.url(), resume=True) as writer:
        begun = writer.count
        writer.append(rows(begun, 40), **where(begun, 40))
    assert begun in ((20,) if machine == "cache" else (7, 14) if uploaded else (0,))
    assert_rows(SampleDataset(bucket.url()), 0, 40)
    assert partitions(bucket) == local_partitions(tmp_path / "local", 40, max_file_size=SMALL)


# --- the cache


def cache_size(root: Path) -> int:
    return sum(file.stat().st_size for file in root.rglob("*.h5") if not file.is_symlink()) + sum(
        file.stat().st_size for file in (root / "objects").iterdir()
    )


def test_the_cache_keeps_to_its_size_and_to_what_is_in_use(bucket, tmp_path, monkeypatch):
    sizes = []
    for name in ("a", "b"):
        write(bucket.url(name), 200 if name == "a" else 220)
        sizes.append(max(map(len, bucket.objects().values())))
    root = tmp_path / "other"
    monkeypatch.setenv("PHYSGYM_CACHE", str(root))
    monkeypatch.setenv("PHYSGYM_CACHE_SIZE", str(max(sizes) + 1000))
    held = SampleDataset(bucket.url("a"))
    with pytest.raises(StorageError, match="PHYSGYM_CACHE_SIZE to more"):
        SampleDataset(bucket.url("b"))
    assert_rows(held, 0, 200)
    held = held.subset(np.arange(10))  # still in use
    with pytest.raises(StorageError, match="PHYSGYM_CACHE_SIZE to more"):
        SampleDataset(bucket.url("b"))
    del held
    assert_rows(SampleDataset(bucket.url("b")), 0, 220)
    assert cache_size(root) <= max(sizes) + 1000
    assert_rows(SampleDataset(bucket.url("a")), 0, 200)
    assert cache_size(root) <= max(sizes) + 1000
    monkeypatch.setenv("PHYSGYM_CACHE_SIZE", "100")
    with pytest.raises(StorageError, match=r"takes .* bytes, and the cache in"):
        SampleDataset(bucket.url("b"))


def test_what_was_not_uploaded_is_never_deleted_for_room(bucket, monkeypatch):
    writer = opened(bucket.url("mine"))
    writer.append(rows(0, 20), **where(0, 20))
    bucket.proxy.away = True
    with pytest.raises(StorageError, match="Nothing is lost"):
        writer.close()
    bucket.proxy.away = False
    monkeypatch.setenv("PHYSGYM_CACHE_SIZE", "100")
    with pytest.raises(StorageError, match=r"takes .* bytes, and the cache in"):
        write(bucket.url("other"), 10)
    monkeypatch.delenv("PHYSGYM_CACHE_SIZE")
    with opened(bucket.url("mine"), resume=True) as writer:
        assert writer.count == 20


@pytest.mark.slow
def test_two_processes_share_a_cache_and_download_once(bucket, tmp_path, monkeypatch):
    write(bucket.url(), 40, max_file_size=SMALL)
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "other"))
    bucket.proxy.requests.clear()
    code = f"from physgym.data.dataset import SampleDataset\nprint(len(SampleDataset({bucket.url()!r})[:]['energy']))"
    children = [child(code) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in children] == ["40\n"] * 2
    got = [request for request in bucket.proxy.requests if ".h5" in request]
    assert len(got) == len(set(got))


def test_what_another_process_downloads_is_waited_for_and_taken_over_when_it_dies(tmp_path, monkeypatch):
    monkeypatch.setattr(caches, "STALLED", 0.2)
    cache = Cache(tmp_path, limit=1000)
    entry = Entry("file.h5", "a" * 64, 3, "object")
    pin = cache.pin(cache.views / "view")
    part = cache.objects / f"{entry.sha256}.part"
    part.write_bytes(b"x")

    def fill() -> None:
        cache.fill(pin.folder, [entry], lambda _, file: file.write_bytes(b"abc"), "it", lambda: None)

    with try_lock(part) as mine:
        assert mine
        with pytest.raises(StorageError, match="makes no progress"):
            fill()
    fill()
    assert (pin.folder / "file.h5").read_bytes() == b"abc"
    assert not part.exists()


def test_a_full_disk_is_an_error_that_names_the_cache(tmp_path):
    cache = Cache(tmp_path, limit=1000)
    pin = cache.pin(cache.views / "view")

    def full(entry: Entry, file: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"cannot write to the cache .* No space left.*PHYSGYM_CACHE"):
        cache.fill(pin.folder, [Entry("file", "a" * 64, 3, "object")], full, "it", lambda: None)


@pytest.mark.parametrize(("text", "size"), [("100", 100), ("2K", 2000), ("1.5 GB", 1_500_000_000), ("3t", 3 * 10**12)])
def test_sizes_are_written_with_units(text, size, monkeypatch, tmp_path):
    monkeypatch.setenv("PHYSGYM_CACHE_SIZE", text)
    assert Cache(tmp_path).limit == size


def test_wrong_settings_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PHYSGYM_CACHE_SIZE", "much")
    with pytest.raises(ConfigError, match="PHYSGYM_CACHE_SIZE must be a size"):
        Cache(tmp_path)
    monkeypatch.setenv("PHYSGYM_S3_PATIENCE", "-1")
    with pytest.raises(ConfigError, match="PHYSGYM_S3_PATIENCE must be a number of seconds"):
        S3Backend(S3Location("bucket"))


# --- networks


def predictor() -> Predictor:
    return Predictor(
        MLP.from_spec(SPEC, inputs=["forces"], outputs=["energy"], hidden=(4,)),
        SPEC,
        inputs=["forces"],
        outputs=["energy"],
    )


def weights(found: Predictor) -> list[bytes]:
    return [value.numpy().tobytes() for value in found.state_dict().values()]


def test_checkpoints_are_replaced_whole(bucket):
    first, second = predictor(), predictor()
    url = bucket.url("networks/epoch-0001")
    assert str(save_checkpoint(url, first, epoch=1, step=10)) == url
    assert weights(load_checkpoint(url)) == weights(first)
    before = set(bucket.objects())
    save_checkpoint(url, second, {"numbers": np.arange(3)}, epoch=1, step=10)
    assert weights(load_checkpoint(bucket.url("networks"), 1)) == weights(second)
    assert weights(load_checkpoint(bucket.url(""), "epoch-0001")) == weights(second)  # a session's folder
    assert len(set(bucket.objects()) & before) == 1  # the manifest; the old weights are deleted
    assert find_checkpoint(url).is_dir()


def test_a_checkpoint_that_cannot_be_uploaded_stays_on_the_disk(bucket, tmp_path):
    one = predictor()
    bucket.proxy.away = True
    with pytest.raises(StorageError, match="Nothing is lost: the checkpoint is in") as error:
        save_checkpoint(bucket.url("networks/last"), one)
    kept = Path(str(error.value).rpartition(" ")[2])
    assert weights(load_checkpoint(kept)) == weights(one)
    assert kept.name == "last"
    bucket.proxy.away = False
    assert bucket.objects() == {}
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(bucket.url("networks"))


def test_a_damaged_checkpoint_is_an_error(bucket):
    url = bucket.url("networks/last")
    save_checkpoint(url, predictor())
    manifest = json.loads(bucket.objects()["networks/last/manifest.json"])
    (key,) = (key for key in bucket.objects() if key.endswith("safetensors"))
    whole = bucket.objects()[key]
    bucket.put(key, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StorageError, match="its checksum is wrong"):
        load_checkpoint(url)
    bucket.client.delete_object(Bucket=bucket.name, Key=key)
    with pytest.raises(StorageError, match="it is not there"):
        load_checkpoint(url)
    manifest["files"] = {"../x": manifest["files"]["network.safetensors"]}
    bucket.put("networks/last/manifest.json", json.dumps(manifest).encode())
    with pytest.raises(StorageError, match="names the file"):
        load_checkpoint(url)


# --- what is refused


def test_a_wrong_bucket_and_a_wrong_prefix_are_named(bucket):
    with pytest.raises(StorageError, match="there is no dataset at"):
        SampleDataset(bucket.url("nothing"))
    wrong = bucket.url().replace(bucket.name, "no-such-bucket")
    for act in (lambda: SampleDataset(wrong), lambda: opened(wrong), lambda: load_checkpoint(wrong)):
        with pytest.raises(StorageError, match="there is no bucket 'no-such-bucket'"):
            act()
    write(bucket.url(), 10)
    with pytest.raises(DatasetError, match=f"s3://{bucket.name}/data.* holds no validation samples"):
        SampleDataset(bucket.url(), mode="validation")


def test_what_must_be_local_says_so(bucket, tmp_path):
    dataset = write(bucket.url(), 10)
    network = MLP.from_spec(SPEC, inputs=["forces"], outputs=["energy"], hidden=(4,))
    fields = {"inputs": ["forces"], "outputs": ["energy"]}
    with pytest.raises(ConfigError, match=r"the session .* must be a local folder, not s3://bucket"):
        Trainer(network, dataset, epochs=1, session="s3://bucket/session", **fields)
    with pytest.raises(ConfigError, match="must be a local folder"):
        archive(bucket.url(), bucket.url("copy"))
    archive(bucket.url(), tmp_path / "copy", compression="gzip")
    assert_rows(SampleDataset(tmp_path / "copy"), 0, 10)


def test_without_credentials_the_error_says_where_they_come_from(bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=r"there are no credentials.*AWS_ACCESS_KEY_ID"):
        SampleDataset(bucket.url())
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="nobody"):
        SampleDataset(bucket.url())


def answered(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Get")


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("RequestTimeTooSkewed", 403, "the clocks of this machine and of the server differ"),
        ("InvalidAccessKeyId", 403, "the credentials are refused"),
        ("ExpiredToken", 400, "the credentials are refused"),
        ("AccessDenied", 403, "access is denied"),
        ("NotImplemented", 501, "conditional writes"),
        ("PermanentRedirect", 301, "PermanentRedirect"),
    ],
)
def test_what_waiting_does_not_mend_is_said_at_once(environment, monkeypatch, code, status, message):
    store, calls = S3Backend(S3Location("bucket", "data"), patience=60), []

    def refuse(**arguments):
        calls.append(arguments)
        raise ClientError(
            {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Get"
        )

    monkeypatch.setattr(store, "_client", SimpleNamespace(get_object=refuse))
    with pytest.raises(StorageError, match=message):
        store.read("object")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("code", "status"), [("SlowDown", 503), ("InternalError", 500), ("RequestTimeout", 400), ("x", 429)]
)
def test_what_waiting_mends_is_tried_again(environment, monkeypatch, code, status):
    store, left = S3Backend(S3Location("bucket", "data")), [1, 2, 3]

    def refuse(**arguments):
        if left:
            left.pop()
            raise answered(code, status)
        return {"ETag": "tag"}

    monkeypatch.setattr(store, "_client", SimpleNamespace(put_object=refuse))
    assert store.replace("object", b"data", None) == "tag"


def test_credentials_appear_nowhere(bucket, tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "physgym")
    errors = []
    write(bucket.url(), 20, max_file_size=SMALL)
    save_checkpoint(bucket.url("networks/last"), predictor())
    bucket.proxy.away = True
    for act in (lambda: SampleDataset(bucket.url()), lambda: save_checkpoint(bucket.url("networks/last"), predictor())):
        with pytest.raises(StorageError) as error:
            act()
        errors += [str(error.value), repr(error.value), str(error.value.__cause__)]
    seen = [*errors, caplog.text, *(str(data) for data in contents(tmp_path).values())]
    seen += [str(item) for item in bucket.objects().items()]
    assert caplog.text
    for text in seen:
        assert SECRET not in text
        assert KEY not in text


def test_credentials_in_the_address_of_an_endpoint_are_refused(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://me:password@127.0.0.1:{bucket.proxy.port}")
    with pytest.raises(ConfigError, match="holds no user name or password") as error:
        SampleDataset(f"s3://{bucket.name}/data")
    assert "password@" not in str(error.value)


def test_the_endpoint_comes_from_the_environment_too(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{bucket.proxy.port}")
    assert_rows(write(f"s3://{bucket.name}/data", 10), 0, 10)
    assert_rows(SampleDataset(Path(f"s3://{bucket.name}/data")), 0, 10)


@pytest.mark.slow
def test_a_training_from_a_configuration_uses_a_dataset_in_s3(bucket, tmp_path):
    data = {
        "session": str(tmp_path / "session"),
        "environment": {"id": "physgym/Spring-v0"},
        "dataset": {"path": bucket.url("spring"), "samples": 300, "num_workers": 0},
        "network": {"arguments": {"hidden": [4]}},
        "training": {"epochs": 1},
    }
    train(check_config(data, "test"))
    assert len(SampleDataset(bucket.url("spring"))) == 300
    data["dataset"] |= {"samples": 400}
    outcome = train(check_config(data, "test"))
    assert outcome.session == tmp_path / "session-2"
    assert len(SampleDataset(bucket.url("spring"))) == 400
