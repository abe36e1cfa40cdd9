"""The car on a random road: its motion in closed form, its roads, what it sees, and when an episode ends."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from physgym.envs import track as module
from physgym.envs.track import ACCELERATION, DRAG, HALF_WIDTH, MAX_STEER, WHEELBASE, Track
from physgym.envs.track_camera import ASPHALT, COLOURS, GRASS, SKY, WHITE, YELLOW, RoadCamera
from physgym.envs.track_course import circle, random_course
from physgym.errors import ConfigError, SampleError


def car(**kwargs) -> Track:
    env = Track(**{"observation": "state", "max_cte": 1e6, "stuck_distance": 0.0, **kwargs})
    env.reset(seed=0, options={"parameters": {"track": 3}})
    return env


def shares(picture) -> dict[int, float]:
    """Return the part of the pixels that each colour has."""
    return {number: float((picture == colour).all(-1).mean()) for number, colour in enumerate(COLOURS)}


def standing(course, at: int = 0) -> tuple[np.ndarray, float]:
    x, y = course.tangents[at]
    return course.points[at], math.atan2(y, x)


@pytest.mark.parametrize("time_step", [0.02, 0.05, 0.3])
@pytest.mark.parametrize("steering", [0.2, -0.7, 1.0])
def test_the_turning_circle_is_that_of_the_closed_form(steering, time_step):
    env = car(time_step=time_step)
    radius = WHEELBASE / math.tan(MAX_STEER * steering)
    start, heading = env.info()["pos"][:2], env.info()["heading"]
    centre = start + radius * np.array([-math.sin(heading), math.cos(heading)])
    for _ in range(80):
        info = env.step(np.array([steering, 0.6]))[4]
        assert np.hypot(*(info["pos"][:2] - centre)) == pytest.approx(abs(radius), rel=1e-12)
        toward = math.atan2(*(info["pos"][:2] - centre)[::-1]) + math.copysign(math.pi / 2, steering)
        assert math.cos(toward - info["heading"]) == pytest.approx(1, abs=1e-12)  # along the circle


def test_speed_and_distance_straight_ahead_follow_the_closed_form():
    env = car(time_step=0.01)
    start = env.info()["pos"]
    for step in range(1, 301):
        info = env.step(np.array([0.0, 0.5]))[4]
        time, top = step * 0.01, 0.5 * ACCELERATION / DRAG
        assert info["speed"] == pytest.approx(top * (1 - math.exp(-DRAG * time)), rel=1e-9)
    way = top * (time - (1 - math.exp(-DRAG * time)) / DRAG)
    assert np.hypot(*(info["pos"] - start)[:2]) == pytest.approx(way, rel=1e-4)
    for _ in range(300):
        info = env.step(np.array([0.0, -1.0]))[4]
    assert info["speed"] == 0  # brakes stop a car, and do not drive it backwards


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.floats(150, 500), st.floats(5, 18))
def test_a_random_course_keeps_its_bounds(seed, length, radius):
    course = random_course(np.random.default_rng(seed), length, radius, 12.0)
    assert np.abs(course.curvature).max() <= 1 / radius
    steps = np.hypot(*(np.roll(course.points, -1, 0) - course.points).T)
    np.testing.assert_allclose(steps, course.spacing, rtol=0.02)  # closed, and of this length
    assert course.length == length
    assert abs(course.curvature.sum() * course.spacing) == pytest.approx(2 * np.pi, rel=0.01)  # around once
    again = random_course(np.random.default_rng(seed), length, radius, 12.0)
    assert again.points.tobytes() == course.points.tobytes()
    number = len(course.points) // 3
    left = np.array([-course.tangents[number][1], course.tangents[number][0]])
    for near in (None, number - 5):
        found, along, error = course.place(course.points[number] + 2.5 * left, near)
        assert (found, error) == (number, pytest.approx(2.5, abs=0.02))
        assert along == pytest.approx(number * course.spacing, abs=0.02)


def test_courses_differ_and_bend_to_both_sides():
    courses = [random_course(np.random.default_rng(seed), 250.0, 12.0, 16.0) for seed in range(8)]
    assert len({course.points.tobytes() for course in courses}) == 8
    assert {np.sign(course.curvature.sum()) for course in courses} == {-1.0, 1.0}


def test_places_beside_a_circle_are_those_of_the_closed_form():
    course = circle(40.0)
    for angle, distance in ((0.3, 38.0), (2.0, 43.5), (6.2, 40.0)):
        _, along, error = course.place(distance * np.array([math.cos(angle), math.sin(angle)]))
        assert error == pytest.approx(40.0 - distance, abs=0.002)  # inside is to the left
        assert along == pytest.approx(40.0 * angle, abs=0.05)
    assert course.ahead(3.0, 500.0) == 1 / 40.0


def test_a_lap_is_counted_and_timed_once(monkeypatch):
    monkeypatch.setattr(module, "random_course", lambda *_: circle(30.0))
    env = car(laps=2)
    steering = math.atan(WHEELBASE / 30.0) / MAX_STEER
    laps, ended, steps = [], False, 0
    while not ended:
        _, reward, ended, _, info = env.step(np.array([steering, 0.5]))
        steps += 1
        laps.append(info["lap_count"])
        assert abs(info["cte"]) < 0.01
        assert reward == pytest.approx(info["speed"] * DRAG / ACCELERATION, rel=1e-6)
    assert laps[-1] == 2
    assert info["distance"] == pytest.approx(2 * 2 * np.pi * 30.0, abs=0.5)
    first = laps.index(1) + 1
    assert info["last_lap_time"] == pytest.approx((steps - first) * env.time_step)


def test_what_ends_an_episode():
    env = car(max_cte=3.0, cte_offset=-1.0)
    ended = False
    while not ended:
        _, reward, ended, _, info = env.step(np.array([0.4, 1.0]))  # off the road
    assert (reward, abs(info["cte"] + 1.0) > 3.0) == (-1.0, True)
    assert env.reset(seed=0)[1]["cte"] == 0
    env = car(stuck_distance=0.5, stuck_steps=20)
    ends = [env.step(np.array([0.0, 0.0]))[2] for _ in range(21)]
    assert ends == [False] * 20 + [True]
    env = car(stuck_distance=0.5, stuck_steps=20)
    assert not any(env.step(np.array([0.0, 0.5]))[2] for _ in range(100))


@pytest.mark.parametrize("steps", [1, 20])
def test_the_way_of_the_last_steps_decides_whether_it_is_stuck(steps):
    env = car(stuck_distance=0.5, stuck_steps=steps)
    way = [0.0]
    while not env._stuck or len(way) <= steps + 1:
        way.append(env.step(np.array([0.0, 1.0 if len(way) < 60 else -1.0]))[4]["distance"])
        now = len(way) - 1
        assert env._stuck == (now > steps and way[now] - way[now - steps] < 0.5)
    assert env._stuck


@pytest.mark.parametrize("action", [[np.nan, 0.5], [0.0, np.nan], [0.5], [0.1, 0.2, 0.3], 0.5])
def test_an_action_that_is_not_two_numbers_is_an_error(action):
    with pytest.raises(SampleError, match="two numbers, steering and throttle, not"):
        car().step(np.array(action))


def test_grass_beside_the_asphalt_is_hit():
    env = car()
    for _ in range(200):
        info = env.step(np.array([0.0, 1.0]))[4]
        assert info["hit"] == ("grass" if abs(info["cte"]) > HALF_WIDTH else "none")
    assert info["hit"] == "grass"


def test_the_picture_has_the_road_where_it_is():
    course = circle(60.0)
    camera = RoadCamera(course, HALF_WIDTH)
    picture = camera.picture(*standing(course))
    assert (picture.shape, picture.dtype) == ((120, 160, 3), np.uint8)
    part = shares(picture)
    assert sum(part.values()) == pytest.approx(1)
    assert all(part[number] > 0.001 for number in (GRASS, ASPHALT, WHITE, YELLOW, SKY))
    assert (picture[0] == COLOURS[SKY]).all()
    assert (picture[-1] == COLOURS[GRASS]).all(-1).sum() == 0  # only road at one's feet
    x, y = course.points[0]
    beside = camera.picture(np.array([x - 30.0, y]), math.pi / 2)  # in the middle of the circle's left half
    assert shares(beside)[ASPHALT] < 0.1 < shares(beside)[GRASS]


def test_a_shift_to_the_left_moves_the_road_to_the_right():
    course = circle(5000.0)  # as good as straight; the painting is of what the car can see

    def middle(shift: float) -> float:
        position, heading = standing(course, 20)
        left = np.array([-math.sin(heading), math.cos(heading)])
        picture = RoadCamera(part, HALF_WIDTH).picture(position + shift * left, heading)
        return float(np.argwhere((picture[60:] == COLOURS[YELLOW]).all(-1))[:, 1].mean())

    count = 300
    part = type(course)(course.points[:count], course.tangents[:count], course.curvature[:count], count * 0.5)
    assert middle(0.0) == pytest.approx(79.5, abs=2)
    assert middle(1.0) > 95
    assert middle(-1.0) < 64


def test_a_mirrored_road_gives_the_mirrored_picture():
    course = random_course(np.random.default_rng(5), 250.0, 12.0, 16.0)
    (x, y), heading = standing(course, 40)
    seen = RoadCamera(course, HALF_WIDTH).picture(np.array([x, y]), heading)
    mirrored = RoadCamera(course.mirrored, HALF_WIDTH).picture(np.array([-x, y]), math.pi - heading)
    assert (seen == mirrored[:, ::-1]).all(-1).mean() > 0.98
    assert (seen == mirrored).all(-1).mean() < 0.95


def test_a_course_is_named_by_its_number():
    env = Track(observation="state", tracks=(100, 120))
    assert {int(env.reset(seed=seed)[1]["parameters"]["track"]) for seed in range(20)} <= set(range(100, 120))
    points = env.course.points
    other = Track(tracks=(0, 1000))
    other.reset(options={"parameters": {"track": env.parameters["track"]}})
    np.testing.assert_array_equal(other.course.points, points)
    with pytest.raises(ConfigError, match="'track' = 7 is not in"):
        env.reset(options={"parameters": {"track": 7}})


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"observation": "lidar"}, "observation"),
        ({"tracks": (5, 5)}, "tracks .* are none"),
        ({"length": 60.0}, "no course of 60.0 m has bends of 12.0 m"),
        ({"radius": 0.0}, "radius"),
        ({"cte_offset": 5.0}, "ends every episode at once"),
        ({"stuck_distance": -1.0}, "stuck_distance"),
        ({"laps": -1}, "laps"),
        ({"tracks": 5}, "tracks 5 are none"),
        ({"tracks": (0, 2**70)}, "tracks must be at most"),
        ({"tracks": (1, 2, 3)}, r"tracks \(1, 2, 3\) are none"),
        ({"time_step": 0.5}, "would lose its place"),
    ],
)
def test_impossible_roads_and_rules_are_errors(wrong, text):
    with pytest.raises(ConfigError, match=text):
        Track(**wrong)


def test_its_own_driver_keeps_to_the_road():
    env = car(max_cte=HALF_WIDTH)
    rng = np.random.default_rng(0)
    for _ in range(300):
        _, _, ended, _, info = env.step(env.sample_action(rng))
        assert not ended
    assert info["distance"] > 60


def test_stable_baselines_accepts_it():
    for seen in ("state", "camera"):
        sb3_check_env(gymnasium.make("physgym/Track-v0", observation=seen).unwrapped, warn=False)
