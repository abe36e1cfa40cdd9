"""Wrappers as data do on recorded rows, to the bit, what they do where an agent acts."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TransformReward

import physgym
from physgym.errors import ConfigError, SampleError
from physgym.rl.preprocessing import WRAPPERS, Preprocessing

CROP = {"type": "Crop", "arguments": {"rows": [4, 20, 2], "columns": [0, 24, 3]}}
GREY = "GrayscaleObservation"
BINS = {"type": "DiscretizeAction", "arguments": {"bins": [7, 2]}}
RAW = spaces.Box(0, 255, (20, 24, 3), np.uint8)
STEERING = spaces.Box(np.float32([-1, -0.3]), np.float32([1, 0.7]), dtype=np.float32)


class Road(gym.Env):
    """Pictures and infos of a random walk, of a seed; the last action is in the info."""

    observation_space, action_space = RAW, STEERING

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.distance = 0, 0.0
        return self._picture(), {}

    def _picture(self):
        return self.np_random.integers(0, 256, RAW.shape).astype(np.uint8)

    def step(self, action):
        assert action.dtype == np.float32
        assert action.shape == (2,)
        self.t += 1
        self.distance += self.np_random.normal()
        info = {
            "cte": self.np_random.normal() if self.t != 3 else np.nan,
            "speed": np.float32(self.np_random.uniform(0, 9)),
            "hit": ["none", "grass"][self.t % 2],
            "distance": self.distance,
            "lap_count": self.t // 5,
            "applied": action.copy(),
        }
        return self._picture(), float(self.np_random.normal()), self.t >= 7, False, info


def drive(env, seeds=(0, 1, 2)):
    """Return what an agent sees, does and earns, as rows: those that a Recorder would write for it."""
    rows = []
    env.action_space.seed(0)
    for episode, seed in enumerate(seeds):
        observation, _ = env.reset(seed=seed)
        over, step = False, 0
        while not over:
            action = env.action_space.sample()
            after, reward, terminated, truncated, info = env.step(action)
            rows.append((observation, action, reward, terminated, info, episode, step))
            observation, over, step = after, terminated or truncated, step + 1
    return rows


def recorded(tmp_path, env_maker, infos=(), seeds=(0, 1, 2)):
    """Drive the raw environment within a Recorder, and return the columns with their episodes and steps."""
    drive(env_maker(physgym.Recorder(Road(), tmp_path / "a", infos=infos)), seeds).clear()


def test_recorded_pictures_and_actions_are_what_an_agent_saw_and_did(tmp_path):
    preprocessing = Preprocessing([CROP, GREY, BINS], RAW, STEERING)
    env = physgym.Recorder(Road(), tmp_path / "a")  # the raw environment, inside of the wrappers
    rows = drive(preprocessing.wrap(env))
    env.close()
    dataset = physgym.SampleDataset(tmp_path / "a")
    columns = dataset[:]
    acted = columns["acted"]
    seen = preprocessing.observations({"observation": columns["observation"][acted]})
    assert list(seen) == ["observation"]
    assert seen["observation"].dtype == np.uint8
    np.testing.assert_array_equal(seen["observation"], np.stack([row[0] for row in rows]))
    chosen = preprocessing.actions({"action": columns["action"][acted]})
    assert chosen.dtype == np.int64
    np.testing.assert_array_equal(chosen, [row[1] for row in rows])
    assert len(set(chosen.tolist())) > 6
    observed, acting = preprocessing.spaces(RAW, STEERING)
    assert observed == spaces.Box(0, 255, (8, 8), np.uint8)
    assert acting == spaces.Discrete(14)
    assert Preprocessing(preprocessing.config).config == preprocessing.config == [CROP, {"type": GREY}, BINS]


def test_every_bin_goes_there_and_back():
    preprocessing = Preprocessing(
        [{"type": "RescaleAction", "arguments": {"min_action": -3, "max_action": [2.0, 5.0]}}]
    )
    for steps in ([BINS], [*preprocessing.config, BINS]):
        whole = Preprocessing(steps, RAW, STEERING)
        env = whole.wrap(Road())
        env.reset(seed=0)
        applied = np.stack([env.step(number)[4]["applied"] for number in range(14)])
        np.testing.assert_array_equal(whole.actions({"action": applied}), np.arange(14))
        assert len(np.unique(applied, axis=0)) == 14
        applied[3, 0] = np.nextafter(applied[3, 0], np.float32(1))
        with pytest.raises(SampleError, match=r"recorded action \[-?\d.*nearest one is .*the agent's 3\."):
            whole.actions({"action": applied})


def test_continuous_actions_come_back_up_to_rounding():
    steps = [{"type": "RescaleAction", "arguments": {"min_action": -2.5, "max_action": 0.5}}, "ClipAction"]
    preprocessing = Preprocessing(steps, RAW, STEERING)
    env = preprocessing.wrap(Road())
    rows = drive(gym.wrappers.TransformAction(env, lambda a: np.clip(a, -2.5, 0.5), env.action_space))
    applied = np.stack([row[4]["applied"] for row in rows])
    given = np.clip(np.stack([row[1] for row in rows]), -2.5, 0.5)
    np.testing.assert_allclose(preprocessing.actions({"action": applied}), given, atol=1e-5)


def test_parts_of_nested_observations_and_wrappers_of_ones_own():
    nested = spaces.Dict({"camera": spaces.Box(0, 255, (4, 4, 3), np.uint8), "speed": spaces.Box(-1, 1, (2,))})
    batch = {
        "observation/camera": np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3),
        "observation/speed": np.float32([[1, 2], [3, 4]]),
    }
    same = Preprocessing([], nested, STEERING).observations(batch)
    assert {name: value.tolist() for name, value in same.items()} == {n: v.tolist() for n, v in batch.items()}
    only = {"type": "FilterObservation", "arguments": {"filter_keys": ["camera"]}}
    (name, value), *rest = Preprocessing([only], nested, STEERING).observations(batch).items()
    assert (name, rest) == ("observation/camera", [])
    np.testing.assert_array_equal(value, batch["observation/camera"])
    halved = Preprocessing([f"{__name__}:Halved"], RAW, STEERING)
    np.testing.assert_array_equal(halved.rewards({"reward": np.array([1.0, 3.0])}), [0.5, 1.5])


class Halved(TransformReward):
    def __init__(self, env):
        super().__init__(env, lambda reward: reward / 2)


class Stateful(gym.ObservationWrapper):
    def observation(self, observation):
        return observation


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ("GrayscaleObservation", "a list of wrappers"),
        (["GreyscaleObservation"], "0: GreyscaleObservation is unknown; did you mean 'GrayscaleObservation'"),
        ([GREY, "FrameStackObservation"], r"1: FrameStackObservation .* stack=4"),
        (["NormalizeReward"], "normalize_rewards=True"),
        (["MaxAndSkipObservation"], "RepeatAction"),
        ([{"type": GREY, "args": {}}], "is no wrapper; give its name"),
        ([{"type": GREY, "arguments": {"keep": 1}}], "0: GrayscaleObservation does not fit"),
        ([GREY, GREY], "1: GrayscaleObservation does not fit Box.*3 channels"),
        ([{"type": "Crop", "arguments": {"rows": [4, 30]}}], r"Crop: rows=\(4, 30\) is no range of the 20 rows"),
        ([{"type": "Crop", "arguments": {"columns": [4, 8, 0]}}], "no range of the 24 columns"),
        ([{"type": "Crop", "arguments": {"rows": [0.5, 8]}}], "rows must be an integer, not 0.5"),
        ([{"type": "InfoReward", "arguments": {"speed": "fast"}}], "speed must be a finite number"),
        (["physgym.rl.wrappers:Nothing"], "has no 'Nothing'"),
        (["physgym.rl.wrappers:NO_HIT"], "is no subclass of gymnasium.Wrapper"),
        (["FlattenObservation", CROP], "1: Crop: Crop is for pictures"),
        (
            [{"type": "RepeatAction", "arguments": {"num_repeats": 2}}, "InfoReward"],
            "all infos but those of the last step are",
        ),
        (["gymnasium.wrappers:AddRenderObservation"], "0: gymnasium.wrappers:AddRenderObservation does not fit"),
    ],
)
def test_wrong_lists_are_one_error(steps, text):
    with pytest.raises(ConfigError, match=text):
        Preprocessing(steps, RAW, STEERING)


def test_what_cannot_be_done_with_rows_says_so():
    rows = {"observation": np.zeros((2, *RAW.shape), np.uint8), "action": np.zeros((2, 2), np.float32)}
    skipping = Preprocessing([{"type": "RepeatAction", "arguments": {"num_repeats": 2}}], RAW, STEERING)
    for what in (skipping.observations, skipping.actions, skipping.rewards):
        with pytest.raises(ConfigError, match=r"RepeatAction works on the steps .*Recorder\(preprocessing.wrap"):
            what(rows)
    with pytest.raises(ConfigError, match="Stateful works on the steps"):
        Preprocessing([f"{__name__}:Stateful"], RAW, STEERING).observations(rows)
    with pytest.raises(ConfigError, match=r"needs the spaces .*Preprocessing\(steps, observation_space"):
        Preprocessing([GREY]).observations(rows)
    grey = Preprocessing([GREY], RAW, STEERING)
    with pytest.raises(SampleError, match="no field 'observation'"):
        grey.observations({"action": rows["action"]})
    with pytest.raises(SampleError, match=r"recorded observation has shape \(8, 8\).*through wrappers"):
        grey.observations({"observation": np.zeros((2, 8, 8), np.uint8)})


def test_resizing_is_gymnasiums_or_says_what_to_install(monkeypatch):
    smaller = {"type": "ResizeObservation", "arguments": {"shape": [10, 12]}}
    with monkeypatch.context() as without:
        without.setitem(__import__("sys").modules, "cv2", None)
        with pytest.raises(ConfigError, match=r"0: ResizeObservation needs OpenCV: pip install 'physgym\[opencv\]'"):
            Preprocessing([smaller], RAW, STEERING)
    pytest.importorskip("cv2")
    preprocessing = Preprocessing([CROP, GREY, smaller], RAW, STEERING)
    seen = [row[0] for row in drive(preprocessing.wrap(Road()))]
    raw = [row[0] for row in drive(gym.wrappers.TransformAction(Road(), lambda action: action, None))]
    np.testing.assert_array_equal(preprocessing.observations({"observation": np.stack(raw)})["observation"], seen)


def test_all_wrappers_that_are_named_exist():
    for place in WRAPPERS.values():
        module, _, name = place.partition(":")
        assert issubclass(getattr(__import__(module, fromlist=[name]), name), gym.Wrapper)


# --- rewards

WHOLE = {"centre": 0.7, "speed": 0.1, "stick": -2.0, "collision": -0.5, "backwards": -0.3, "max_cte": 2.0}


@pytest.mark.parametrize(
    "arguments",
    [
        WHOLE,
        WHOLE | {"cte_offset": 0.25, "laps": 1},
        {"speed": 1 / 3},
        {"stick": -1.0},
        {"backwards": -1.0, "centre": 1e-3},
    ],
)
def test_rewards_of_recorded_infos_are_those_of_the_wrapper(tmp_path, arguments):
    step = {"type": "InfoReward", "arguments": arguments}
    clip = {"type": "ClipReward", "arguments": {"min_reward": -2.25, "max_reward": 0.9}}
    preprocessing = Preprocessing([step, clip], RAW, STEERING)
    inner = physgym.Recorder(Road(), tmp_path / "a", infos=[*preprocessing.infos, "applied"], nonfinite="allow")
    rows = drive(preprocessing.wrap(inner))
    inner.close()
    dataset = physgym.SampleDataset(tmp_path / "a")
    columns, episodes, steps = dataset[:], dataset.index("episode"), dataset.index("step")
    earned = np.array([row[2] for row in rows])
    assert len(set(earned.tolist())) > (1 if arguments == {"stick": -1.0} else 3)
    order = np.random.default_rng(0).permutation(len(episodes))  # as of several environments at once
    found = preprocessing.rewards({n: v[order] for n, v in columns.items()}, episodes[order], steps[order])
    again = np.empty_like(found)
    again[order] = found
    assert found.dtype == np.float64
    np.testing.assert_array_equal(again[columns["acted"]], earned)
    np.testing.assert_array_equal(again[~columns["acted"]], 0)


def test_the_reward_by_hand():
    reward = Preprocessing([{"type": "InfoReward", "arguments": WHOLE}], RAW, STEERING)
    columns = {
        "info/cte": np.array([0.5, -1.0, 3.0, 0.0]),
        "info/speed": np.array([2.0, 0.0, 1.0, 4.0]),
        "info/hit": np.array([b"none", b"grass", b"none", b"cone"]),
        "info/distance": np.array([1.0, 0.5, 0.7, 0.1]),
        "terminated": np.array([0, 0, 1, 0], np.int8),
    }
    found = reward.rewards(columns, np.array([4, 4, 4, 5]), np.array([0, 1, 2, 0]))
    by_hand = [0.7 * 0.75 + 0.2, 0.7 * 0.5 - 0.5 - 0.3, -2.0, 0.7 + 0.4 - 0.5]
    np.testing.assert_allclose(found, by_hand, rtol=1e-15)
    assert reward.infos == ("cte", "speed", "hit", "distance")


def test_a_missing_info_or_step_is_one_error():
    reward = Preprocessing([{"type": "InfoReward", "arguments": WHOLE}], RAW, STEERING)
    columns = {f"info/{name}": np.zeros(2) for name in ("cte", "speed", "distance")} | {"terminated": np.zeros(2)}
    with pytest.raises(ConfigError, match=r"\['info/hit'\] were not recorded; .*infos= of the Recorder"):
        reward.rewards(columns)
    columns["info/hit"] = np.array(["none", "none"])
    with pytest.raises(ConfigError, match="give episodes and steps"):
        reward.rewards(columns)
    with pytest.raises(SampleError, match="the step before step 3 of episode 0 is missing"):
        reward.rewards(columns, np.array([0, 0]), np.array([0, 3]))
    env = Preprocessing([{"type": "InfoReward", "arguments": {"speed": 1.0}}]).wrap(gym.make("CartPole-v1"))
    env.reset(seed=0)
    with pytest.raises(SampleError, match=r"needs the info 'speed'.*Set its coefficient to 0"):
        env.step(0)
    env.close()
    with pytest.raises(ConfigError, match="no column 'reward'"):
        Preprocessing([], RAW, STEERING).rewards({})
