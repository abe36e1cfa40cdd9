from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import qmc

from physgym.cube import Cube
from physgym.episode import ActionGenerator, episode_seed
from physgym.errors import ConfigError
from physgym.nn import MLP, Predictor
from physgym.sample import Field, SampleSpec
from physgym.samplers import (
    Breed,
    Gaussian,
    Grid,
    LatinHypercube,
    NetworkPolicy,
    Policy,
    Sobol,
    Uniform,
    find_sampler,
    rebuild_sampler,
)
from physgym.samplers.base import stream
from physgym.spaces import flatten
from physgym.training.checkpoint_files import save_checkpoint
from physgym.worker.sampled_actions import SampledActionsFactory
from tests.support import toys

BOUNDED = spaces.Dict(
    [
        ("a", spaces.Box(-3.0, 5.0, (2,), np.float64)),
        (
            "b",
            spaces.Tuple(
                [spaces.Discrete(4, start=-2), spaces.Box(np.array([1, 7]), np.array([3, 7]), dtype=np.int16)]
            ),
        ),
        ("c", spaces.Dict({"bits": spaces.MultiBinary((2, 2)), "many": spaces.MultiDiscrete([2, 5], start=[1, -1])})),
        ("d", spaces.Box(0.1, 0.7, (), np.float32)),
    ]
)
UNBOUNDED = spaces.Dict({"free": spaces.Box(-np.inf, np.inf, (2,), np.float32), "half": spaces.Box(0, np.inf, ())})
KINDS = [Uniform(), Gaussian(), Sobol(), LatinHypercube(16), Grid(3), Breed()]
ACTING = KINDS[:-1]
SQUARE = spaces.Dict({"p": spaces.Box(0.0, 1.0, (2,), np.float64)})


def same(a, b, space=BOUNDED):
    return all(np.array_equal(x, y) for x, y in zip(flatten(space, a), flatten(space, b), strict=True))


def points(sampler, count, space=SQUARE, seed=0):
    draw = sampler.parameters(space, seed)
    return np.array([draw(i)["p"] for i in range(count)])


@pytest.mark.parametrize("sampler", KINDS, ids=lambda sampler: sampler.name)
def test_parameters_are_in_their_space_and_depend_on_seed_and_episode_alone(sampler):
    draw = sampler.parameters(BOUNDED, 5)
    drawn = [draw(i) for i in range(100)]
    assert all(BOUNDED["c"].contains(value["c"]) and BOUNDED["b"].contains(value["b"]) for value in drawn)
    assert all(BOUNDED["a"].contains(value["a"]) for value in drawn)
    assert all(np.float32(0.1) <= value["d"] <= np.float32(0.7) and value["d"].dtype == np.float32 for value in drawn)
    again = sampler.parameters(BOUNDED, 5)
    for i in (99, 3, 70, 0):  # in any order, from any beginning
        assert same(again(i), drawn[i])
    assert not all(map(same, drawn[:50], drawn[50:]))
    if not isinstance(sampler, Grid):
        other = sampler.parameters(BOUNDED, 6)
        assert not same(other(0), drawn[0])
    drawn[0]["a"][:] = 99
    assert (sampler.parameters(BOUNDED, 5)(0)["a"] <= 5).all()


@pytest.mark.parametrize("sampler", ACTING, ids=lambda sampler: sampler.name)
def test_actions_depend_on_seed_episode_and_step_alone(sampler):
    def actions(begin, episode, steps):
        act, rng = begin(episode), np.random.default_rng((3, episode))
        return [act(None, rng) for _ in range(steps)]

    space = spaces.Box(-1, 1, (3,), np.float32)
    begin = sampler.actions(space, 5)
    drawn = {episode: actions(begin, episode, 5) for episode in range(20)}
    assert all(space.contains(action) for episode in drawn.values() for action in episode)
    again = sampler.actions(space, 5)
    for episode in (19, 2, 11):
        np.testing.assert_array_equal(actions(again, episode, 5), drawn[episode])
        np.testing.assert_array_equal(actions(again, episode, 3), drawn[episode][:3])
    assert len({action.tobytes() for episode in drawn.values() for action in episode}) > 20


def test_a_cube_maps_its_faces_to_the_bounds_and_back():
    cube = Cube(BOUNDED)
    lowest, highest = cube.columns(np.zeros((1, cube.size))), cube.columns(np.ones((1, cube.size)))
    assert [column.ravel().tolist() for column in lowest] == [
        [-3, -3],
        [-2],
        [1, 7],
        [0] * 4,
        [1, -1],
        [np.float32(0.1)],
    ]
    assert [column.ravel().tolist() for column in highest] == [[5, 5], [1], [3, 7], [1] * 4, [2, 3], [np.float32(0.7)]]
    drawn = np.random.default_rng(0).random((200, cube.size))
    columns = cube.columns(drawn)
    back = cube.columns(cube.points(columns))
    for path, column, other in zip(cube.paths, columns, back, strict=True):
        np.testing.assert_allclose(column, other, rtol=1e-6, err_msg=path)


def test_every_value_of_a_discrete_leaf_is_as_likely():
    draw = Uniform().parameters(spaces.Dict({"d": spaces.Discrete(5, start=3)}), 0)
    values, counts = np.unique([draw(i)["d"] for i in range(5000)], return_counts=True)
    assert values.tolist() == [3, 4, 5, 6, 7]
    assert counts.min() > 850


def test_sobol_points_are_those_of_scipy_and_fill_better_than_random_ones():
    found = points(Sobol(), 128)
    expected = qmc.Sobol(2, rng=stream(0, 1)).random(128)
    np.testing.assert_array_equal(found, expected)
    assert qmc.discrepancy(found) < 0.2 * qmc.discrepancy(points(Uniform(), 128))
    begin = Sobol().actions(spaces.Box(0, 1, (2,), np.float64), 0)
    policies = [begin(i) for i in range(128)]
    steps = [np.array([policy(None, None) for policy in policies]) for _ in range(2)]
    for step in steps:
        assert qmc.discrepancy(step) < 0.2 * qmc.discrepancy(points(Uniform(), 128))
    assert (steps[0] != steps[1]).all()


@pytest.mark.parametrize("sampler", [*ACTING, Grid(2)], ids=lambda sampler: sampler.name)
def test_steps_and_parameters_go_their_own_ways(sampler):
    """Neither two steps of actions nor actions and parameters may be in step, as equal sequences would be."""
    episodes, generators = 2048, ActionGenerator()
    begin = sampler.actions(SQUARE["p"], 3)
    columns = [points(sampler, episodes, seed=3)]
    steps = [[] for _ in range(6)]
    for episode in range(episodes):
        act, rng = begin(episode), generators.of(episode_seed(3, episode))
        for step in steps:
            step.append(act(None, rng))
    columns += [np.array(step) for step in steps]
    related = np.corrcoef(np.concatenate(columns, axis=1).T) - np.eye(14)
    assert np.abs(related).max() < 5 / np.sqrt(episodes)


@pytest.mark.parametrize("episodes", [16, 64, 256])
def test_shuffled_sobol_actions_fill_every_power_of_two(episodes):
    begin = Sobol().actions(SQUARE["p"], 1)
    policies = [begin(i) for i in range(episodes)]
    for _ in range(3):
        found = np.array([act(None, None) for act in policies])
        for component in found.T:  # one in each of as many intervals
            assert sorted((component * episodes).astype(int)) == list(range(episodes))


def test_a_grid_of_actions_has_all_points_at_every_step():
    begin = Grid([3, 4]).actions(SQUARE["p"], 0)
    policies = [begin(i) for i in range(24)]
    for _ in range(3):
        found = [tuple(act(None, None)) for act in policies]
        assert len(set(found[:12])) == len(set(found[12:])) == 12
        assert found[:12] != found[12:]
    large = Grid(100).actions(spaces.Box(0, 1, (64,)), 0)  # more points than 64 bits count
    assert large(0)(None, None).shape == (64,)


def test_streams_differ_by_seed_and_key():
    keys = [
        (0,),
        (1,),
        (0, 0),
        (5,),
        (5, 1),
        (5, 1, 0),
        (5, 1, 1),
        (5 + 2**32,),
        (5 + 2**32, 0),
        (5 + 2**32, 1),
        (5, 0, 0),
    ]
    assert len({stream(*key).random() for key in keys}) == len(keys)
    assert episode_seed(5 + 2**32, 0) != episode_seed(5, 1024)


def test_a_space_without_components_is_drawn_uniformly_or_refused():
    act = Uniform().actions(spaces.Box(-1, 1, (0,)), 0)(0)
    assert act(None, np.random.default_rng(0)).shape == (0,)


def test_a_latin_hypercube_has_one_value_in_every_stratum():
    found = points(LatinHypercube(32), 64)
    for group in (found[:32], found[32:]):
        assert (np.arange(32) == np.sort((group * 32).astype(int), axis=0).T).all()
    assert (found[:32] != found[32:]).any()


def test_a_grid_has_all_points_and_then_begins_again():
    space = spaces.Dict([("kind", spaces.Discrete(2)), ("x", spaces.Box(-1, 1, (2,), np.float32))])
    grid = Grid(3)
    assert grid.counts(space) == [2, 3, 3]
    draw = grid.parameters(space, 0)
    drawn = [(int(value["kind"]), *value["x"].tolist()) for value in map(draw, range(36))]
    assert set(drawn[:18]) == {(kind, x, y) for kind in (0, 1) for x in (-1, 0, 1) for y in (-1, 0, 1)}
    assert drawn[18:] == drawn[:18]
    assert Grid([1, 2, 1]).counts(space) == [1, 2, 1]
    assert Grid([1, 2, 1]).parameters(space, 0)(1)["x"].tolist() == [1, 0]
    large = Grid(100).parameters(spaces.Dict({"p": spaces.Box(0, 1, (64,))}), 0)  # more points than 64 bits count
    assert large(10**30)["p"].shape == (64,)


def test_gaussian_draws_have_mean_and_deviation_and_stay_in_the_space():
    draw = Gaussian(mean={"free": [3, -3]}, std={"free": 0.5, "half": 2.0}).parameters(UNBOUNDED, 0)
    drawn = [draw(i) for i in range(2000)]
    free, half = (np.array([value[name] for value in drawn]) for name in ("free", "half"))
    np.testing.assert_allclose(free.mean(0), [3, -3], atol=0.05)
    np.testing.assert_allclose(free.std(0), 0.5, atol=0.05)
    assert half.min() == 0  # clipped
    assert free.dtype == half.dtype == np.float32
    centred = points(Gaussian(), 2000)
    np.testing.assert_allclose(centred.mean(0), 0.5, atol=0.02)
    whole = Gaussian(mean=9, std=3).parameters(spaces.Dict({"d": spaces.Discrete(4, start=8)}), 0)
    assert {int(whole(i)["d"]) for i in range(200)} == {8, 9, 10, 11}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: Sobol().parameters(UNBOUNDED, 0),
            r"parameter_space\['free'\] is a Box without bounds.*sobol.*Gaussian",
        ),
        (lambda: Uniform().actions(UNBOUNDED["half"], 0), "action_space is a Box without bounds.*or a Policy"),
        (lambda: Grid().parameters(spaces.Dict({"t": spaces.Text(3)}), 0), r"\['t'\] is a Text, whose values"),
        (lambda: Gaussian().actions(spaces.Dict({"t": spaces.Text(3)}), 0), r"\['t'\] is a Text, whose values"),
        (lambda: Uniform().parameters(spaces.Dict({"w": spaces.Box(-1e308, 1e308, (1,), np.float64)}), 0), "narrow"),
        (lambda: Uniform().actions(spaces.Box(-(2**62), 2**62, (), np.int64), 0), "narrow its bounds"),
        (lambda: Sobol().parameters(spaces.Dict({}), 0), "no component"),
        (lambda: Sobol().actions(spaces.Box(0, 1, (30000,)), 0), "at most 21201; use LatinHypercube"),
        (lambda: Breed().actions(SQUARE, 0), "gives parameters, not actions"),
        (lambda: Policy(print).parameters(SQUARE, 0), "gives actions, not parameters; use one of uniform"),
        (lambda: Policy(3), "needs a function"),
        (lambda: Gaussian(std=-1), "std must not be negative"),
        (lambda: Gaussian(mean=[np.nan]), "mean must be finite"),
        (lambda: Gaussian(mean="middle"), "mean must be numbers"),
        (lambda: Gaussian(mean={"q": 1}).parameters(SQUARE, 0), r"mean names \['q'\], which parameter_space lacks"),
        (lambda: Gaussian(mean=[1, 2, 3]).parameters(SQUARE, 0), r"mean has shape \(3,\)"),
        (lambda: LatinHypercube(0), "strata must be at least 1, not 0"),
        (lambda: Grid([2, 0]), "points must be at least 1"),
        (lambda: Grid([2]).parameters(SQUARE, 0), "points has 1 numbers; parameter_space has 2 components"),
        (lambda: Breed(sigma=0), "sigma must be positive"),
        (lambda: Breed(end=1.5), "end must be between 0 and 1"),
        (lambda: Breed().update({}, []), r"call `parameters\(space, seed\)` first"),
        (lambda: Breed().load_state_dict({"updates": 1}), "not the state of a Breed sampler"),
        (lambda: NetworkPolicy("nowhere/at/all"), "there is no .*nowhere"),
        (lambda: NetworkPolicy(3), "needs a physgym.nn.Predictor or a path"),
        (lambda: find_sampler("sobel", "actions"), "actions='sobel' is no sampler; write one of uniform.*network:PATH"),
        (lambda: find_sampler("network:x", "parameters"), "is no sampler"),
        (lambda: find_sampler("sobol:3", "parameters"), "is no sampler"),
        (lambda: find_sampler("grid:many", "parameters"), "is no sampler"),
        (lambda: find_sampler("network:", "actions"), "is no sampler"),
        (lambda: find_sampler(print, "parameters"), "is no sampler"),
        (lambda: find_sampler(Sobol, "parameters"), "is no sampler"),
    ],
)
def test_what_cannot_be_sampled_is_an_error_that_names_it(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


def test_names_stand_for_samplers():
    assert find_sampler(None, "actions") is None
    assert find_sampler("lhs:128", "parameters").describe() == {"sampler": "lhs", "strata": 128}
    assert find_sampler("grid:7", "actions").describe() == {"sampler": "grid", "points": 7}
    assert isinstance(find_sampler("breed", "parameters"), Breed)
    policy = find_sampler(lambda observation, rng: observation, "actions")
    assert isinstance(policy, Policy)
    for sampler in [*KINDS, policy, Gaussian([1, 2], {"a": 1})]:
        assert json.loads(json.dumps(sampler.describe())) == sampler.describe()


@pytest.mark.parametrize("sampler", [*KINDS, Gaussian([1, 2], {"a": 1}), Grid([2, 3])], ids=lambda s: s.name)
def test_a_sampler_is_rebuilt_from_its_description(sampler):
    described = json.loads(json.dumps(sampler.describe()))
    assert rebuild_sampler(described, "parameters").describe() == described
    assert rebuild_sampler(None, "actions") is None


@pytest.mark.parametrize(
    ("described", "text"),
    [
        (
            Policy(same).describe(),
            r"the actions came from tests.samplers.test_samplers:same, .*pass actions= with the same one",
        ),
        ({"sampler": "network", "weights": "ab"}, "came from a network with weights ab"),
        ({"sampler": "breed"}, "came from breed"),
        ({"sampler": "lhs", "layers": 3}, "does not describe a sampler"),
        ({}, "came from None"),
    ],
)
def test_what_cannot_be_rebuilt_says_what_to_pass(described, text):
    with pytest.raises(ConfigError, match=text):
        rebuild_sampler(described, "actions")


# --- adaptive sampling


def peak(found):
    return np.exp(-(((found - [0.8, 0.2]) ** 2).sum(1)) / 0.02)


def test_breed_draws_more_where_the_loss_is_high():
    breed = Breed()
    draw = breed.parameters(SQUARE, 0)
    first = np.array([draw(i)["p"] for i in range(256)])
    begun = 256
    for update in range(6):
        found = np.array([draw(begun + i)["p"] for i in range(256)])
        begun += 256
        breed.update({"p": found}, peak(found))
        assert breed.ratio == pytest.approx(0.7 * min(1, (update + 1) / 3))
    last = np.array([draw(begun + i)["p"] for i in range(1024)])
    near = [(np.linalg.norm(found - [0.8, 0.2], axis=1) < 0.2).mean() for found in (first, last)]
    assert near[0] < 0.2
    assert near[1] > 0.4
    assert ((last >= 0) & (last <= 1)).all()
    far = (np.linalg.norm(last - [0.2, 0.8], axis=1) < 0.3).mean()
    assert far > 0.03  # the uniform part goes on exploring


def test_the_weights_of_breed_undo_the_crowding_of_its_own_draws():
    """With equal losses everywhere there is no reason to concentrate, however often parents had children."""
    breed = Breed(start=0.9, end=0.9, window=2000)
    draw = breed.parameters(SQUARE, 0)
    breed.update({"p": np.full((50, 2), 0.25)}, np.ones(50))  # a crowd
    crowded = np.array([draw(i)["p"] for i in range(2000)])
    breed.update({"p": crowded}, np.ones(2000))
    after = np.array([draw(i)["p"] for i in range(2000)])

    def near(found):
        return (np.abs(found - 0.25) < 0.1).all(1).mean()

    assert near(crowded) > 0.3
    assert near(after) < 0.5 * near(crowded)


def test_the_state_of_breed_is_json_and_brings_back_its_draws():
    breed = Breed(window=32)
    draw = breed.parameters(SQUARE, 3)
    for _ in range(3):
        found = np.array([draw(i)["p"] for i in range(20)])
        breed.update({"p": found}, peak(found))
    state = json.loads(json.dumps(breed.state_dict()))
    assert len(state["parents"]) == 32
    other = Breed(window=32)
    other.load_state_dict(state)
    again = other.parameters(SQUARE, 3)
    np.testing.assert_array_equal([again(i)["p"] for i in range(50)], [draw(i)["p"] for i in range(50)])
    fresh = Breed().state_dict()
    other.load_state_dict(json.loads(json.dumps(fresh)))
    assert other.ratio == 0


def test_breed_stands_extreme_losses_and_parameters_that_it_could_not_have_drawn():
    breed = Breed(sigma=0.001, start=1.0, end=1.0)
    draw = breed.parameters(SQUARE, 0)
    for place, loss in ((0.1, 1e308), (0.9, 1e308), (0.5, 1e-308), (0.2, 0.0)):
        breed.update({"p": np.full((2, 2), place)}, [loss, loss])
        assert np.isfinite([draw(i)["p"] for i in range(20)]).all()
    other = Breed()
    other.load_state_dict(breed.state_dict())
    with pytest.raises(ConfigError, match=r"its parents have \(2,\) components, parameter_space has 1"):
        other.parameters(spaces.Dict({"q": spaces.Discrete(3)}), 0)


def test_breed_breeds_discrete_and_nested_parameters():
    breed = Breed(sigma=0.05, start=1.0, end=1.0)
    draw = breed.parameters(BOUNDED, 0)
    best = draw(7)
    columns = dict(zip(breed._cube.paths, [np.array([leaf]) for leaf in flatten(BOUNDED, best)], strict=True))
    breed.update(columns, [2.0])
    children = [draw(i) for i in range(200)]
    assert np.mean([child["b"][0] == best["b"][0] for child in children]) > 0.9
    assert np.std([child["a"] - best["a"] for child in children]) < 8 * 0.1


@pytest.mark.parametrize(
    ("parameters", "losses", "text"),
    [
        ({}, [], r"\['p'\] are missing"),
        ({"p": np.zeros((2, 2))}, [1.0], r"losses have shape \(1,\); there are 2"),
        ({"p": np.zeros((2, 2))}, [1.0, -1.0], "finite and not negative"),
        ({"p": np.zeros((2, 2))}, [1.0, np.inf], "finite and not negative"),
        ({"p": np.array([[0.5, np.nan]])}, [1.0], "out of their bounds"),
        ({"p": np.array([[0.5, 1.5]])}, [1.0], "out of their bounds"),
    ],
)
def test_wrong_losses_are_named_and_change_nothing(parameters, losses, text):
    breed = Breed()
    breed.parameters(SQUARE, 0)
    with pytest.raises(ConfigError, match=text):
        breed.update(parameters, losses)
    assert breed.updates == 0


# --- networks


def network(shape_in=(3,), shape_out=(3,)):
    spec = SampleSpec(
        [Field("seen", shape_in, np.dtype("f4"), "input"), Field("done", shape_out, np.dtype("f4"), "target")]
    )
    return Predictor(MLP(shape_in, shape_out, hidden=[4]), spec)


def test_a_network_gives_actions_within_the_bounds():
    predictor = network()
    act = NetworkPolicy(predictor).actions(spaces.Box(-1, 1, (3,), np.float32), 0)(0)
    seen = np.array([0.3, -0.2, 0.1], np.float32)
    np.testing.assert_array_equal(act(seen, None), np.clip(predictor.predict({"seen": seen})["done"], -1, 1))
    for bias in predictor.network.parameters():
        bias.data += 100
    np.testing.assert_array_equal(act(seen, None), [1, 1, 1])
    np.testing.assert_array_equal(act({"seen": seen}, None), [1, 1, 1])


def test_a_network_chooses_among_discrete_actions():
    predictor = network(shape_out=(4,))
    act = NetworkPolicy(predictor).actions(spaces.Discrete(4, start=2), 0)(0)
    seen = np.array([0.3, -0.2, 0.1], np.float32)
    assert act(seen, None) == 2 + int(np.argmax(predictor.predict({"seen": seen})["done"]))


def test_a_network_that_does_not_fit_the_action_is_named():
    act = NetworkPolicy(network(shape_out=(2,))).actions(spaces.Box(-1, 1, (3,), np.float32), 0)(0)
    with pytest.raises(ConfigError, match=r"the network predicts \(2,\) for the action, which has \(3,\)"):
        act(np.zeros(3, np.float32), None)
    act = NetworkPolicy(network()).actions(spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Discrete(2)}), 0)(0)
    with pytest.raises(ConfigError, match="an action has 2 parts"):
        act(np.zeros(3, np.float32), None)


def test_a_network_may_be_a_checkpoint(tmp_path, monkeypatch):
    predictor = network()
    save_checkpoint(tmp_path / "networks" / "last", predictor)
    monkeypatch.chdir(tmp_path)
    sampler = find_sampler("network:networks", "actions")
    monkeypatch.chdir("/")  # a worker may be elsewhere
    seen = np.array([0.3, -0.2, 0.1], np.float32)
    space = spaces.Box(-1, 1, (3,), np.float32)
    expected = NetworkPolicy(predictor).actions(space, 0)(0)(seen, None)
    np.testing.assert_array_equal(sampler.actions(space, 0)(0)(seen, None), expected)
    assert sampler.describe() == NetworkPolicy(predictor).describe()


def test_several_inputs_and_outputs_go_by_name():
    f4 = np.dtype("f4")
    names = {"a": "input", "b": "input", "x": "target", "y": "target"}

    class Swap(torch.nn.Module):
        def forward(self, a, b):
            return b, a

    predictor = Predictor(Swap(), SampleSpec([Field(name, (2,), f4, role) for name, role in names.items()]))
    space = spaces.Dict([("y", spaces.Box(-1, 1, (2,), np.float32)), ("x", spaces.MultiDiscrete([5, 5]))])
    act = NetworkPolicy(predictor).actions(space, 0)(0)
    action = act({"a": np.array([0.5, 9], np.float32), "b": np.array([1.8, -3], np.float32)}, None)
    assert action["y"].tolist() == [0.5, 1]
    assert action["x"].tolist() == [2, 0]
    assert space.contains(action)
    with pytest.raises(ConfigError, match=r"the inputs \['a', 'b'\], the observation is one array"):
        act(np.zeros(2, np.float32), None)


def test_a_network_is_described_by_its_weights():
    predictor = network()
    before = NetworkPolicy(predictor).describe()
    assert before == NetworkPolicy(predictor).describe()
    next(predictor.network.parameters()).data[0] += 1
    assert before != NetworkPolicy(predictor).describe()


def test_acting_makes_environments_with_a_policy():
    env = SampledActionsFactory(toys.Line, Sobol(), 3)()
    want = Sobol().actions(env.action_space, 3)(5)(None, None)
    np.testing.assert_array_equal(env.get_wrapper_attr("episode_policy")(5)(None, None), want)


def test_a_worker_does_not_import_heavy_things_for_samplers():
    code = (
        "import sys, physgym.samplers, physgym.worker.main\n"
        "heavy = {'torch', 'h5py', 'scipy.stats', 'physgym.data'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
