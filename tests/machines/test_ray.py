"""Workers that Ray places: with a stand-in everywhere, and with Ray itself on two nodes where it is installed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import runpy
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from physgym import generate
from physgym.cli.machines import Listening
from physgym.errors import ConfigError, WorkerError
from physgym.machines import ray_cluster
from physgym.machines.placed_worker import PlacedWorker, sealed
from physgym.machines.ray_cluster import RayCluster, parse_request
from physgym.machines.ray_launcher import RayLauncher
from tests.support.machines import ROOT
from tests.support.processes import has_ended
from tests.support.stand_in_ray import stand_in
from tests.support.watching import OnceStored, until

SPRING, HELD = "physgym/Spring-v0", "tests.support.toys:Held"
OPTIONS = {"samples": 2000, "max_steps": 10, "progress": False}
NODE = {"CPU": 1.0, "node:here": 1.0, "object_store_memory": 1e9}


def digests(folder):
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("training-*.h5"))]


def held_options(held):
    return {"env_kwargs": {"folder": str(held)}, "samples": 400, "max_steps": 4, "progress": False}


def lost_at_work(pool, held, lose):
    """Lose a worker as soon as two have work that they do not end, and let the other one go on."""

    def wait():
        until(lambda: len(list(held.iterdir())) == 2)
        lose()
        until(lambda: any(has_ended(int(file.name)) for file in held.iterdir()))
        (held / "go").touch()

    return pool.submit(wait)


# --- with a stand-in


@pytest.mark.slow
def test_a_worker_whose_machine_is_gone_is_placed_anew_and_the_bytes_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    held = tmp_path / "held"
    held.mkdir()
    options = held_options(held)
    with stand_in(monkeypatch, NODE, NODE) as ray, RayLauncher("auto", [HELD], request={"num_cpus": 1}) as launcher:
        until(lambda: len(launcher._reception._callers) == 2)
        with ThreadPoolExecutor(1) as pool:
            lost = lost_at_work(pool, held, lambda: ray.actors[0].process.kill())
            with pytest.warns(RuntimeWarning) as caught:
                generate(HELD, tmp_path / "there", launcher=launcher, **options)
        lost.result()
        texts = [str(warning.message) for warning in caught]
        assert any("Others run its episodes again" in text for text in texts), texts
        until(lambda: len(ray.actors) == 3)
        assert len(ray.options) == 3
        assert ray.options[0]["scheduling_strategy"] == "SPREAD"
        generate(HELD, tmp_path / "again", launcher=launcher, recycle=16, **options)  # one run after the other
    generate(HELD, tmp_path / "here", num_workers=1, **options)
    assert digests(tmp_path / "here") == digests(tmp_path / "there") == digests(tmp_path / "again") != []


@pytest.mark.slow
def test_the_example(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(ROOT / "examples" / "ray_workers.py"))["main"]
    with stand_in(monkeypatch, NODE) as ray:
        main("auto")
        assert [options["num_cpus"] for options in ray.options] == [0.5, 0.5]
    assert capsys.readouterr().out == "1000 samples in data/ray_workers\n"


class Broken:
    """An actor that cannot be made."""

    def __init__(self):
        os._exit(1)


class Refused(PlacedWorker):
    """An actor whose worker is let in nowhere."""

    def run(self, settings, token, folder):
        assert self._key is not None
        assert "token" not in settings.replace('"token": ""', "")
        return "this worker makes nothing"


@pytest.mark.parametrize(
    ("kind", "said"),
    [(Broken, "Ray cannot start a worker: The actor died"), (Refused, "is of no use: this worker makes nothing")],
)
def test_workers_that_cannot_work_are_an_error_in_time(tmp_path, monkeypatch, kind, said):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("physgym.machines.ray_launcher.PlacedWorker", kind)
    begun = time.monotonic()
    with (
        stand_in(monkeypatch, NODE) as ray,
        RayLauncher("auto", [SPRING]) as launcher,
        pytest.raises(WorkerError, match=said),
    ):
        generate(SPRING, tmp_path / "d", launcher=launcher, timeout=60, **OPTIONS)
    assert time.monotonic() - begun < 30
    assert len(ray.actors) < 8
    assert not list(tmp_path.glob("d/*.h5"))


def test_workers_that_find_no_room_are_an_error_in_time(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with stand_in(monkeypatch, NODE) as ray:
        monkeypatch.setattr(ray, "wait", lambda answers, num_returns, timeout: (time.sleep(0.05), ([], answers))[1])
        with RayLauncher("auto", [SPRING]) as launcher, pytest.raises(WorkerError, match=r"0 of 1 have a place"):
            launcher.first(0.3)


def test_resources_that_no_machine_has_are_an_error(monkeypatch):
    with stand_in(monkeypatch, NODE, {"CPU": 4.0, "GPU": 1.0, "licence": 2.0}):
        cluster = RayCluster("auto")
        assert cluster.capacity({"num_cpus": 1}) == 5
        assert cluster.capacity({"num_cpus": 1, "num_gpus": 0.25}) == 4
        assert cluster.capacity({"num_cpus": 0.1, "licence": 1}) == 2
        assert cluster.capacity({}) == 2
        with pytest.raises(
            ConfigError, match="no machine of the Ray cluster has num_gpus=2; they have num_cpus=1; num_"
        ):
            cluster.capacity({"num_gpus": 2})
        with pytest.raises(ConfigError, match="has num_cpus=2, other=1; they have"):
            cluster.capacity({"num_cpus": 2, "other": 1, "num_gpus": 0})
        cluster.close()


def test_a_cluster_that_was_here_and_is_gone_is_an_error_at_once(tmp_path, monkeypatch):
    """As after `ray start`, where its machine was started again."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    monkeypatch.setattr(ray_cluster, "SERVER", "no such process")
    with stand_in(monkeypatch, NODE):
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        with pytest.raises(ConfigError, match=r"at 127.0.0.1:1, says .*ray_current_cluster, and nothing .*--ray local"):
            RayCluster("auto")
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
        with pytest.raises(ConfigError, match=r"RAY_ADDRESS says 127.0.0.1:2: nothing answers there"):
            RayCluster("auto")
        monkeypatch.setattr(ray_cluster, "SERVER", (Path("/proc/self/comm")).read_text().strip())
        monkeypatch.setenv("RAY_ADDRESS", "")
        RayCluster("auto").close()  # there is another one on this machine, which Ray takes


def test_what_is_not_protected_is_said(monkeypatch):
    with stand_in(monkeypatch, NODE):
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with pytest.warns(RuntimeWarning, match="asks for no token .*RAY_USE_TLS"):
            RayCluster("auto").close()


def test_a_cluster_of_its_own_has_a_token_that_no_file_keeps(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    ray_cluster._choose_token(make=False)
    assert "RAY_AUTH_MODE" not in os.environ
    ray_cluster._choose_token(make=True)
    assert (os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"])) == ("token", 64)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_does_what_it_did(monkeypatch):
    import signal

    with stand_in(monkeypatch, NODE) as ray:
        before = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(ray, "init", lambda **_: signal.signal(signal.SIGTERM, signal.SIG_IGN))
        RayCluster("auto").close()
        assert signal.getsignal(signal.SIGTERM) is before


def test_the_secret_is_for_its_actor_alone():
    one, other = PlacedWorker(), PlacedWorker()
    secret = bytes(range(32))
    letter = sealed(secret, one.public_key())
    assert secret not in letter
    with pytest.raises(ValueError, match=r".*"):
        other.run(json.dumps({}), letter, "")


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("", {"num_cpus": 1}),
        ("num_cpus=2.5", {"num_cpus": 2.5}),
        (" num_gpus=0.5, licence = 1 ", {"num_cpus": 1, "num_gpus": 0.5, "licence": 1}),
        ("num_cpus=0,memory=1e9", {"num_cpus": 0, "memory": 1e9}),
    ],
)
def test_requests(text, request_):
    assert parse_request(text) == request_


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", "'x' is no resource; write NAME=AMOUNT"),
        ("x=", "no resource"),
        ("=1", "no resource"),
        ("x=-1", "no resource"),
        ("x=nan", "no resource"),
        ("x=inf", "no resource"),
        ("x=1,x=2", "each name once"),
        ("CPU=1", "calls a request for that num_cpus"),
        ("num_gpus=1.5", "parts of one, or integers"),
    ],
)
def test_wrong_requests(text, said):
    with pytest.raises(ConfigError, match=said):
        parse_request(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ray": "auto", "token_file": Path("t")}, "--token-file has no use with --ray"),
        ({"ray": "auto", "plain": True}, "--plain has no use with --ray"),
        ({"ray_resources": "num_cpus=2"}, "--ray-resources goes with --ray"),
        ({"ray": "127.0.0.1:1"}, "--ray 127.0.0.1:1: nothing answers there"),
        ({"ray": "ray://head:10001"}, "takes auto, local or HOST:PORT"),
        ({"ray": "head"}, "is no address"),
        ({"ray": "auto", "ray_resources": "x"}, "is no resource"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, monkeypatch, options, said):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=said), Listening(**options).reception([SPRING], {}):
        pass
    with pytest.raises(ConfigError, match="num_workers=0"), Listening(ray="auto").reception([], {"num_workers": 0}):
        pass


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--ray needs ray: pip install 'physgym\[ray\]'"):
        RayLauncher("auto", [SPRING])


# --- with Ray itself, in processes of their own: it leaves threads, caches and handlers behind


needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (79 MB)")


def in_process(what, folder):
    """Run a function of this module in another process; what it has printed."""
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    variables |= {"XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = f"import sys; from tests.machines import test_ray; test_ray.{what.__name__}(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def lose_a_node(folder):
    """Generate on two nodes, of which one is killed and replaced."""
    from ray.cluster_utils import Cluster

    warnings.simplefilter("always")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    try:
        with RayLauncher(cluster.address, [HELD]) as launcher, ThreadPoolExecutor(1) as pool:
            count = launcher._workers
            until(lambda: len(launcher._reception._callers) == 2)

            held = Path(folder) / "held"
            held.mkdir()
            lost = lost_at_work(pool, held, lambda: cluster.remove_node(second, allow_graceful=False))
            again = OnceStored(1, lambda: cluster.add_node(num_cpus=1))  # Ray wants to do so in the main thread
            with warnings.catch_warnings(record=True) as caught:
                generate(HELD, Path(folder) / "there", launcher=launcher, callbacks=[again], **held_options(held))
            lost.result()
            said = [str(warning.message) for warning in caught]
            deadline = time.monotonic() + 60
            while len(launcher._reception._callers) < 2 and time.monotonic() < deadline:  # on the new node
                time.sleep(0.05)
            back = len(launcher._reception._callers)
            try:
                launcher._cluster.capacity({"num_gpus": 1.0})
            except ConfigError as error:
                no_gpu = str(error)
        sys.stdout.write(json.dumps({"count": count, "said": said, "back": back, "no_gpu": no_gpu}) + "\n")
    finally:
        cluster.shutdown()


@needs_ray
@pytest.mark.slow
def test_a_node_of_a_ray_cluster_is_killed_and_the_dataset_is_identical(tmp_path):
    found = in_process(lose_a_node, tmp_path)
    generate(HELD, tmp_path / "here", num_workers=1, **held_options(tmp_path / "held"))
    assert (found["count"], found["back"]) == (2, 2)
    assert any("Others run its episodes again" in text for text in found["said"]), found["said"]
    assert "no machine of the Ray cluster has num_gpus=1" in found["no_gpu"]
    assert digests(tmp_path / "here") == digests(tmp_path / "there") != []
