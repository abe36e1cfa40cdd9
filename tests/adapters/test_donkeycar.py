"""The environment of a DonkeyCar simulator, against one that is as strict and as faulty as the real one."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import sys
import threading
import time

import gymnasium
import numpy as np
import psutil
import pytest
from gymnasium.wrappers import PassiveEnvChecker

import physgym
from physgym.adapters.donkey_link import decoded, encoded
from physgym.adapters.donkeycar import DonkeyCarEnv, _Driven
from physgym.envs.track import Track
from physgym.errors import ConfigError, SimulatorError
from physgym.placement import build
from physgym.rl.drive import PersonActs
from physgym.scene.live import LiveScene
from physgym.testing import check_env
from physgym.testing.fake_donkey import SCENES, FakeDonkey
from physgym.worker.given_inputs import GivenInputs

FURTHER = [(), ("merge",), ("split", "commas", "stale"), ("poor",)]


def driven(env, steps=40):
    """Drive straight, then to the left; return the infos."""
    infos = []
    for step in range(steps):
        observation, _, _, _, info = env.step(np.array([0.3 * (step > 10), 0.6], np.float32))
        assert observation.shape == (120, 160, 3)
        infos.append(info)
    return infos


@pytest.mark.parametrize(
    "faults",
    [
        ("split", "commas"),
        *(pytest.param(faults, marks=pytest.mark.slow) for faults in FURTHER),
    ],
    ids="-".join,
)
def test_it_drives_whatever_the_framing(faults):
    with FakeDonkey(faults=faults) as fake:
        env = DonkeyCarEnv(port=fake.port, timeout=10)
        observation, info = env.reset(seed=1)
        assert observation.dtype == np.uint8
        assert info["speed"] <= 0.5
        infos = driven(env)
        env.close()
    assert fake.refused == []  # nothing that the simulator cannot read
    assert fake.kinds()[:2] == ["get_protocol_version", "get_scene_names"]
    assert fake.kinds()[-1] == "exit_scene"
    assert [info["answered"] for info in infos].count(True) > 30
    assert infos[-1]["speed"] > 0.5
    if "poor" in faults:
        assert math.isnan(infos[-1]["cte"])
    else:
        assert infos[-1]["distance"] > 0.1
        assert np.unwrap([info["heading"] for info in infos])[-1] > infos[0]["heading"] + 0.05  # to the left
        assert infos[-1]["cte_repaired"] == 0


def test_it_sees_what_a_track_shows():
    with FakeDonkey() as fake:
        env = DonkeyCarEnv(port=fake.port, timeout=10)
        observation, info = env.reset()
        track = Track()
        first, known = track.reset(options={"parameters": {"track": 1}})
        env.close()
    np.testing.assert_array_equal(observation, first)
    assert env.observation_space == track.observation_space
    assert env.action_space == track.action_space
    assert set(known) - {"parameters"} <= set(info)


@pytest.mark.slow
def test_frames_from_before_a_reset_are_left_out():
    with FakeDonkey(faults=["stale"]) as fake:
        env = DonkeyCarEnv(port=fake.port, timeout=10)
        first, _ = env.reset()
        for _ in range(3):
            driven(env)
            observation, info = env.reset()
            np.testing.assert_array_equal(observation, first)
            assert info["distance"] == 0
        env.close()


def waited(fake, frames: int) -> None:
    """Wait until the simulator has sent so many frames more."""
    end, deadline = fake.frames + frames, time.monotonic() + 60
    while fake.frames < end and time.monotonic() < deadline:
        time.sleep(0.005)


def test_what_came_while_the_agent_computed_is_no_answer_and_is_not_lost():
    with FakeDonkey() as fake:
        env = DonkeyCarEnv(port=fake.port, timeout=10)
        env.reset()
        action = np.array([0.1, 0.5], np.float32)
        env.step(action)
        waited(fake, 60)  # more than one look at the connection gives
        before = fake.frames
        info = env.step(action)[4]  # which all these frames show as well
        assert info["answered"]
        assert env._frame["time"] > (before - 0.5) * 0.05
        assert info["hit"] == "none"
        driven = info["distance"]
        fake.bumps = 1  # said once, in a frame that nobody waits for
        waited(fake, 20)
        _, reward, terminated, _, info = env.step(action)
        assert (info["hit"], info["lap_count"], info["last_lap_time"]) == ("cone", 1, 12.5)
        assert (reward, terminated) == (-1.0, True)
        assert info["distance"] > driven + 0.5
        assert env.step(action)[4]["hit"] == "none"
        info = env.reset()[1]
        assert (info["hit"], info["lap_count"]) == ("none", 0)
        env.close()
        env.close()
        with pytest.raises(SimulatorError, match="broke"):
            env.step(action)


@pytest.mark.parametrize("sent", [[5000.0, 0.2, 0.3], [0.2, 5000.0, 0.25, 0.3], [math.nan, 0.2, 0.3]])
def test_a_broken_error_is_not_taken_for_the_first_one(sent):
    driven = _Driven()
    for error in sent:
        driven.move({"cte": error, "pos_x": 1.0, "pos_y": 0.0, "pos_z": 2.0})
    assert driven.cte == 0.3
    driven.move({"cte": -900.0, "pos_x": 1.0, "pos_y": 0.0, "pos_z": 2.0})
    assert driven.cte == 0.3


@pytest.mark.slow
def test_an_action_that_is_shown_later_is_waited_for():
    with FakeDonkey(faults=["late"]) as fake:
        env = DonkeyCarEnv(port=fake.port, timeout=10)
        env.reset()
        infos = [env.step(np.array([0.1 * (step % 5), 0.5], np.float32))[4] for step in range(20)]
        env.close()
    assert [info["answered"] for info in infos].count(True) > 14


@pytest.mark.slow
def test_broken_errors_are_repaired_and_counted():
    with FakeDonkey(faults=["wild"]) as fake:
        env = DonkeyCarEnv(port=fake.port, timeout=10)
        env.reset()
        infos = driven(env, 20)
        env.close()
    assert max(abs(info["cte"]) for info in infos) < 50
    assert infos[-1]["cte_repaired"] >= 3
    with FakeDonkey(faults=["lost"]) as fake:  # it is there
        env = DonkeyCarEnv(port=fake.port, timeout=10)
        env.reset()
        ended = [env.step(np.array([0.0, 0.5], np.float32))[2] for _ in range(40)]
        env.close()
    assert ended[0] is False
    assert ended[-1] is True


@pytest.mark.parametrize("faults", [[], ["renamed"]])
def test_the_second_camera_the_lidar_and_the_configurations(faults):
    with FakeDonkey(loaded=True, faults=faults) as fake:
        env = DonkeyCarEnv(
            port=fake.port,
            timeout=10,
            car={"body_style": "f1", "car_name": "me"},
            camera_b={"offset_z": 1.5},
            lidar={"maxRange": 40, "numSweepsLevels": 2},
            racer={"racer_name": "R"},
        )
        _, info = env.reset()
        env.close()
    assert info["image_b"].shape == (120, 160, 3)
    assert info["lidar"].shape == (2, 180)
    assert info["lidar"][1, 2] == 2.5  # 4 degrees around, 1 degree down
    assert np.count_nonzero(info["lidar"] == -1) == 359
    sent = {message["msg_type"]: message for message in fake.received}
    assert sent["cam_config_b"]["offset_z"] == "1.5"
    assert sent["car_config"]["body_style"] == "f1"
    assert sent["racer_info"]["racer_name"] == "R"
    assert sent["lidar_config"]["maxRange"] == "40"
    assert sent["lidar_config"]["noise"] == "0.0"  # without which the simulator takes nothing
    assert fake.refused == []


def test_a_simulator_that_asks_for_the_car_gets_one_that_nobody_has_configured():
    with FakeDonkey(loaded=True) as fake:
        env = DonkeyCarEnv(port=fake.port, timeout=10, lidar={})
        _, info = env.reset()
        env.close()
    order = ["car_config", "cam_config", "lidar_config"]
    assert [kind for kind in fake.kinds() if kind.endswith("config")] == order
    assert info["lidar"].shape == (1, 180)
    assert info["lidar"][0, 2] == 2.5


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"camera_b": {"img_w": 320}}, "camera_b has pictures of 160 x 120; leave img_w out, not 320"),
        ({"camera": {"fovv": 3}}, r"camera has no \['fovv'\]; it has fov, "),
        ({"lidar": {"numSweepsLevels": 0}}, "numSweepsLevels must be at least 1"),
        ({"lidar": {"degPerSweepInc": "wide"}}, "degPerSweepInc must be"),
        ({"lidar": {"degPerSweepInc": 400}}, "at most 360"),
        ({"lidar": {"degAngDelta": 0}}, "degAngDelta a number other than 0"),
        ({"private_key": "DONKEY_KEY_THAT_IS_NOT_SET"}, "which is not set"),
        ({"private_port": 0}, "private_port"),
    ],
)
def test_wrong_configurations_are_refused_before_anything_is_started(arguments, text):
    with pytest.raises(ConfigError, match=text):
        DonkeyCarEnv(port=1, **arguments)


def test_each_simulator_that_is_started_has_a_port_of_its_own(monkeypatch):
    ports = []

    def start(command, host, port, timeout):
        ports.append(port)
        raise SimulatorError("this is enough")

    monkeypatch.setattr("physgym.adapters.donkeycar.DonkeySimulator", start)
    for index in range(2):
        with pytest.raises(SimulatorError, match="enough"):
            build(lambda: DonkeyCarEnv(port=19000, command=["donkey_sim"]), index, 2)
    assert ports == [19000, 19001]


def test_its_scene_shows_what_the_camera_sees():
    with FakeDonkey() as fake:
        env = GivenInputs(PersonActs(gymnasium.make("physgym/DonkeyCar-v0", port=fake.port, timeout=10), 0.05))
        seen, _ = env.reset(seed=0)
        live = LiveScene(env)
        live.frame()
        shown = live.snapshot["objects"]
        env.close()
    np.testing.assert_array_equal(shown["camera"]["values"], seen)
    assert shown["caption"]["text"].startswith("speed 0.0, lap 0")
    assert set(shown) == {"camera", "caption"}  # and no samples


def test_what_the_simulator_can_do_besides(monkeypatch):
    monkeypatch.setenv("DONKEY_KEY", "key")
    with FakeDonkey() as fake:
        env = DonkeyCarEnv(port=fake.port, timeout=5, private_key="DONKEY_KEY", private_port=fake.private.port)
        _, first = env.reset(seed=7)
        end = time.monotonic() + 60
        while fake.private.seed is None and time.monotonic() < end:
            time.sleep(0.005)
        assert fake.private.seed == 7
        place, rotation = env.node_position(40)
        assert rotation.tolist() == [0, 0, 0, 1]
        env.set_position(place, rotation)
        waited(fake, 4)
        info = env.step(np.zeros(2, np.float32))[4]
        np.testing.assert_allclose(info["pos"][[0, 2]], place[[0, 2]], atol=1e-6)
        assert np.linalg.norm(info["pos"] - first["pos"]) > 5
        assert info["distance"] < 0.1  # it did not drive there
        assert abs(info["cte"]) < 0.01
        env.regen_road(seed=3)
        _, again = env.reset()
        assert np.linalg.norm(again["pos"] - first["pos"]) > 0.5  # another road
        monkeypatch.setattr("physgym.adapters.donkeycar.NODE", 0.2)
        with pytest.raises(SimulatorError, match=r"where node 100000 is within 0\.2 s"):
            env.node_position(100_000)
        for wrong in ("here", [1, 2], [1, 2, math.inf]):
            with pytest.raises(ConfigError, match="position is 3"):
                env.set_position(wrong)
        env.quit()
        assert fake.quits
    assert fake.refused == []
    assert "racer_info" not in fake.kinds()


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("die", "closed the connection"),
        pytest.param("stall", "did not send a frame within 1 s", marks=pytest.mark.slow),
        pytest.param("silent", "did not load the scene 'generated_road' within 1 s", marks=pytest.mark.slow),
        ("garbage", "sends what is no JSON: '<html>'"),
    ],
)
def test_a_simulator_that_dies_or_hangs_is_an_error(fault, text):
    def used(port):
        with contextlib.closing(DonkeyCarEnv(port=port, timeout=1)) as env:
            env.reset()
            driven(env, 100)

    begin = time.monotonic()
    with FakeDonkey(faults=[fault]) as fake, pytest.raises(SimulatorError, match=text):
        used(fake.port)
    assert time.monotonic() - begin < 20


def test_wrong_places_scenes_and_versions(monkeypatch):
    monkeypatch.setattr("physgym.adapters.donkey_simulator.FREED", 0.1)
    monkeypatch.setattr("physgym.adapters.donkey_link.RETRIED", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SimulatorError, match=r"no DonkeyCar simulator answers at 127\.0"):
        DonkeyCarEnv(port=port, timeout=1)
    with (
        FakeDonkey(version="1") as fake,
        pytest.raises(SimulatorError, match=r"speaks version 1 .* this environment 2"),
    ):
        DonkeyCarEnv(port=fake.port, timeout=2)
    with FakeDonkey() as fake, pytest.raises(ConfigError, match=rf"no scene 'moon'; it has .*{SCENES[0]}"):
        DonkeyCarEnv(port=fake.port, scene="moon", timeout=2)
    with FakeDonkey() as fake, pytest.raises(SimulatorError, match="somebody listens"):
        DonkeyCarEnv(port=fake.port, command=["true"], timeout=2)
    with pytest.raises(SimulatorError, match="cannot be started"):
        DonkeyCarEnv(port=port, command=["/nowhere/donkey_sim.x86_64"], timeout=2)
    with pytest.raises(SimulatorError, match="ended at once, with status 3"):
        DonkeyCarEnv(port=port, command=[sys.executable, "-c", "raise SystemExit(3)"], timeout=20)
    with pytest.raises(ConfigError, match="list of a program"):
        DonkeyCarEnv(port=port, command="donkey_sim.x86_64", timeout=2)


def test_messages_are_flat_texts():
    assert encoded({"msg_type": "control", "steering": 0.5, "on": True}) == (
        b'{"msg_type": "control", "steering": "0.5", "on": "true"}'
    )
    for wrong in ({"name": "{x}"}, {"name": [1]}, {"name": math.nan}):
        with pytest.raises(ConfigError, match="name"):
            encoded(wrong)
    line = b'{"msg_type":"telemetry","cte":-1,25,"n":3,"x":1,5E-05,"lidar":[{"rx":0,5,"d":2}]}'
    message = decoded(line, "here")
    assert message == {"msg_type": "telemetry", "cte": -1.25, "n": 3, "x": 1.5e-05, "lidar": [{"rx": 0.5, "d": 2}]}
    for wrong in (b"[1]", b'{"a": 1}', b"\xff\xfe"):
        with pytest.raises(SimulatorError):
            decoded(wrong, "here")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.mark.slow
def test_its_program_is_started_ended_and_started_again(tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "physgym.testing.fake_donkey"]
    env = DonkeyCarEnv(port=port, command=command, timeout=60)
    program = psutil.Process(env._simulator._child.pid)
    env.reset()
    driven(env, 5)
    program.kill()
    with pytest.raises(SimulatorError):
        driven(env, 200)
    env.close()
    assert not program.is_running() or program.status() == psutil.STATUS_ZOMBIE
    env = DonkeyCarEnv(port=port, command=command, timeout=60)
    env.reset()
    env.close()


@pytest.mark.slow
def test_a_worker_makes_it_anew_where_the_simulator_has_died(tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "physgym.testing.fake_donkey", "--faults", "die", "--period", "0.02"]
    envs = physgym.SocketVectorEnv(
        [lambda: DonkeyCarEnv(port=port, command=command, timeout=60)], num_workers=1, on_error="restart"
    )
    with envs:
        envs.reset(seed=0)
        ends = 0
        for _ in range(45):
            _, _, terminated, truncated, _ = envs.step(np.array([[0.0, 0.4]], np.float32))
            ends += int(truncated[0] or terminated[0])
        assert ends >= 1


def test_a_simulator_that_starts_a_moment_later_is_waited_for():
    port = free_port()
    with contextlib.ExitStack() as stack:
        late = threading.Timer(0.3, lambda: stack.enter_context(FakeDonkey(port=port)))
        late.start()
        DonkeyCarEnv(port=port, timeout=10).close()
        late.join()


def test_gymnasium_accepts_it():
    with FakeDonkey() as fake:
        env = PassiveEnvChecker(DonkeyCarEnv(port=fake.port, timeout=10))
        env.reset(seed=0)
        for _ in range(3):
            env.step(env.action_space.sample())
        env.close()


@pytest.mark.slow
def test_it_keeps_the_rules_that_can_be_asked_of_it():
    with FakeDonkey() as fake:
        noted, said = [], []

        def make(**kwargs):
            return gymnasium.make("physgym/DonkeyCar-v0", port=fake.port, timeout=10, **kwargs)

        check_env(make, lambda rule, fault: said.append(rule), lambda rule, text: noted.append(rule))
    assert "test_samples_fit_the_declaration" in said
    assert "test_same_seed_same_episode" in noted


@pytest.mark.slow
def test_samples_are_generated_and_survive_a_simulator_that_dies(tmp_path):
    options = {"num_workers": 1, "num_envs": 1, "on_error": "restart", "progress": False}
    with FakeDonkey(faults=["die"], period=0.04) as fake:
        arguments = {"port": fake.port, "timeout": 10}
        made = physgym.generate(
            "physgym/DonkeyCar-v0", tmp_path, samples=30, max_steps=40, env_kwargs=arguments, **options
        )
    assert len(made) == 30
    assert made.source["real_time"] is True
    assert len(np.unique(made.index("episode"))) > 1  # the simulator dies in frame 20
    assert made.ended is None or len(made.ended["episode"]) == 0
    for episode in np.unique(made.index("episode")):
        rows = np.flatnonzero(made.index("episode") == episode)
        pictures = made[rows]
        np.testing.assert_array_equal(pictures["observation"][1:], pictures["next_observation"][:-1])


@pytest.mark.slow
@pytest.mark.skipif("DONKEY_SIM_PATH" not in os.environ, reason="DONKEY_SIM_PATH names no simulator")
def test_the_real_simulator():
    env = DonkeyCarEnv(port=free_port(), command=[os.environ["DONKEY_SIM_PATH"]], timeout=120)
    env.reset()
    assert driven(env)[-1]["speed"] > 0
    env.close()
