from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import skfem
from skfem.models.elasticity import lame_parameters, linear_elasticity

import physgym.envs
from physgym.envs.beam import Beam
from physgym.envs.elasticity import Block, BlockMesh, Solver
from physgym.errors import ConfigError, RejectSample, SampleError

QUICK = {"nodes": (13, 4, 4), "order": 3}
FULL = {"nodes": (25, 5, 5), "order": 2}
SIZE = (100.0, 15.0, 15.0)


@pytest.fixture(scope="module")
def block() -> Block:
    return Block(BlockMesh(SIZE, (7, 4, 4), 3), 2000.0, 0.45)


@pytest.fixture(scope="module")
def beam() -> Beam:
    return Beam(**QUICK)


def loads(beam: Beam, count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [beam.sample_action(rng) for _ in range(count)]


def bent(block: Block, seed: int = 0) -> np.ndarray:
    """A large random deformation that turns no element inside out."""
    x = block.mesh.positions / 100
    field = np.random.default_rng(seed).normal(size=(3, 3, 3)) * 4
    u = np.einsum("na,nb,iab->ni", x, x + 1, field)
    assert block.state(u) is not None
    return u


def dense(block: Block, band: np.ndarray) -> np.ndarray:
    """The symmetric matrix in a lower band storage."""
    n = block.n_free
    lower = np.zeros((n, n))
    for offset, diagonal in enumerate(band):
        lower += np.diag(diagonal[: n - offset], -offset)
    return lower + np.tril(lower, -1).T


def reference_deflection(elements: tuple[int, int, int] = (20, 4, 4)) -> float:
    """Mean tip deflection in mm under 1 N spread over the end face: linear elasticity with scikit-fem."""
    axes = [np.linspace(0, length, count + 1) for length, count in zip(SIZE, elements, strict=True)]
    mesh = skfem.MeshHex.init_tensor(*axes)
    element = skfem.ElementVector(skfem.ElementHex2())
    basis = skfem.Basis(mesh, element, intorder=4)
    end = skfem.FacetBasis(mesh, element, facets=mesh.facets_satisfying(lambda x: x[0] > 100 - 1e-9), intorder=4)
    stiffness = linear_elasticity(*lame_parameters(2000.0, 0.45)).assemble(basis)
    load = skfem.LinearForm(lambda v, w: v[2] / 225).assemble(end)
    u = skfem.solve(*skfem.condense(stiffness, load, D=basis.get_dofs(lambda x: x[0] < 1e-9)))
    return skfem.Functional(lambda w: w["u"][2] / 225).assemble(end, u=end.interpolate(u))


def tip_deflection(beam: Beam) -> float:
    """The same of a beam."""
    tip = beam.rest_positions[:, 0] > 99
    forces = np.zeros(beam.action_space.shape)
    forces[tip, 2] = 1 / tip.sum()
    return beam.solver.solve(forces).displacement[tip, 2].mean()


@pytest.mark.slow
def test_tip_deflection_agrees_with_independent_reference():
    reference = reference_deflection()
    timoshenko = 100**3 / (3 * 2000 * 15**4 / 12) + 100 / (5 / 6 * 2000 / 2.9 * 225)
    assert reference == pytest.approx(timoshenko, rel=0.05)  # beam theory ignores that the clamp holds the width
    for options, bound in ((FULL, 0.03), (QUICK, 0.05)):
        deflection = tip_deflection(Beam(**options))
        error = deflection / reference - 1
        assert abs(error) < bound, f"{options}: tip deflection {deflection:.5f} mm is off by {error:.1%}"


def test_internal_forces_are_the_gradient_of_the_energy(block):
    u = bent(block)
    forces = block.internal_forces(block.state(u))
    for seed in range(3):
        direction = np.random.default_rng(seed).normal(size=u.shape)
        slope = (block.energy(u + 1e-5 * direction) - block.energy(u - 1e-5 * direction)) / 2e-5
        assert slope == pytest.approx(np.vdot(forces, direction), rel=1e-7)


def test_stiffness_is_the_derivative_of_the_internal_forces(block):
    u = bent(block)
    stiffness = dense(block, block.stiffness(block.state(u)))
    first = 3 * block.mesh.n_clamped
    for seed in range(3):
        direction = np.random.default_rng(seed).normal(size=u.shape)
        direction[: block.mesh.n_clamped] = 0
        after, before = (block.internal_forces(block.state(u + sign * 1e-5 * direction)) for sign in (1, -1))
        expected = (after - before).ravel()[first:] / 2e-5
        np.testing.assert_allclose(stiffness @ direction.ravel()[first:], expected, atol=1e-6 * np.abs(expected).max())


def test_rotation_costs_no_energy_and_turns_the_forces(block):
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    x = block.mesh.positions
    rigid = x @ turn.T - x
    assert abs(block.energy(rigid)) < 1e-9 * block.energy(0.01 * x)
    np.testing.assert_allclose(block.internal_forces(block.state(rigid)), 0, atol=1e-6)  # N; a bending load has 100 N
    u = bent(block)
    turned = (x + u) @ turn.T - x
    assert block.energy(turned) == pytest.approx(block.energy(u), rel=1e-12)
    forces = block.internal_forces(block.state(u))
    np.testing.assert_allclose(block.internal_forces(block.state(turned)), forces @ turn.T, atol=1e-6)


def test_turning_an_element_inside_out_is_noticed(block):
    assert block.state(-2.0 * block.mesh.positions) is None
    assert block.energy(-2.0 * block.mesh.positions) == np.inf


def test_a_step_keeps_to_first_order_but_not_the_length_of_added_rotations(block):
    state = block.state(bent(block))
    step = np.random.default_rng(1).normal(size=state.u.shape)
    step[: block.mesh.n_clamped] = 0
    small = 1e-4 * step
    np.testing.assert_allclose(block.move(state, small) - state.u, small, atol=1e-2 * np.abs(small).max())
    # a bending step: added as it is, it stretches the block and costs far more energy than the bending
    bending = np.zeros_like(step)
    bending[:, 2] = 20 * (block.mesh.positions[:, 0] / 100) ** 2
    bending[:, 0] = -0.4 * block.mesh.positions[:, 0] / 100 * (block.mesh.positions[:, 2] - 7.5)
    assert block.energy(block.move(block.rest, bending)) < block.energy(bending)


@pytest.mark.parametrize("options", [QUICK, FULL])
def test_equilibrium_is_a_stable_one_with_a_small_residual(options):
    beam = Beam(**options)
    solver, block = beam.solver, beam.block
    for forces in loads(beam, 3):
        found = solver.solve(forces.astype(np.float64))
        state = block.state(found.displacement)
        unbalanced = (forces - block.internal_forces(state))[block.mesh.n_clamped :]
        assert np.linalg.norm(unbalanced) <= 1e-8 * np.linalg.norm(forces)
        assert found.residual <= 1e-8
        assert not found.displacement[: block.mesh.n_clamped].any()
        assert block.factor(block.stiffness(state)) is not None


def test_load_sampler_bends_far_and_converges(beam):
    largest, rejected = [], 0
    for forces in loads(beam, 60):
        assert beam.action_space.contains(forces)
        beam.reset(seed=0)
        observation, reward, terminated, truncated, info = beam.step(forces)
        assert beam.observation_space.contains(observation)
        assert (reward, terminated, truncated) == (0.0, False, False)
        if "rejected" in info:
            rejected += 1
            continue
        assert beam.sample_space.contains(info["sample"])
        np.testing.assert_array_equal(info["sample"]["displacement"], observation)
        largest.append(info["max_displacement"])
    assert rejected <= 1  # at least 98 % converge
    assert np.median(largest) >= 15.0


def test_same_seed_gives_the_same_bits_whatever_came_before():
    results = []
    for history in (0, 3):
        beam = Beam(**QUICK)
        for forces in loads(beam, history, seed=9):
            beam.step(forces)
        beam.reset(seed=7)
        action = beam.sample_action(np.random.default_rng(7))
        results.append((action.tobytes(), beam.step(action)[0].tobytes()))
    assert results[0] == results[1]


def test_steps_are_independent_load_cases(beam):
    first, second = loads(beam, 2)
    beam.reset()
    expected = beam.step(second)[0]
    beam.step(first)
    np.testing.assert_array_equal(beam.step(second)[0], expected)
    np.testing.assert_array_equal(beam.reset()[0], 0)


def test_a_load_that_does_not_converge_gives_no_sample():
    beam = Beam(**QUICK, max_iterations=2)
    beam.reset(seed=0)
    forces = np.zeros(beam.action_space.shape, np.float32)
    forces[-16:, 2] = beam.force_bound
    observation, _, _, _, info = beam.step(forces)
    assert "no equilibrium" in info["rejected"]
    assert "sample" not in info
    np.testing.assert_array_equal(observation, 0)
    with pytest.raises(RejectSample, match="after 2 iterations"):
        beam.solver.solve(forces.astype(np.float64))


def test_load_steps_reach_what_one_step_does_not(monkeypatch, beam):
    forces = np.zeros(beam.action_space.shape)
    forces[-16:, 2] = 400.0
    monkeypatch.setattr("physgym.envs.elasticity.ITERATIONS_PER_LOAD_STEP", 8)
    found = beam.solver.solve(forces)
    assert found.load_steps > 1
    assert found.residual <= 1e-8


@pytest.mark.parametrize("magnitude", [1e-9, 1e-3, 1.0])
def test_small_loads_deflect_in_proportion(beam, magnitude):
    forces = np.zeros(beam.action_space.shape)
    forces[-16:, 2] = magnitude / 16
    found = beam.solver.solve(forces)
    assert found.iterations <= 3
    assert found.displacement[-16:, 2].mean() == pytest.approx(0.03797 * magnitude, rel=1e-2)


def test_no_load_leaves_the_beam_at_rest(beam):
    found = beam.solver.solve(np.zeros(beam.action_space.shape))
    assert found.iterations == 0
    assert not found.displacement.any()


def test_a_good_prediction_saves_iterations_and_a_bad_one_does_no_harm(beam):
    guided = Beam(**QUICK, initial_guess="network")
    for forces in loads(beam, 5):
        exact, _, _, _, info = beam.step(forces)
        guided.predictor = lambda inputs, exact=exact: {"displacement": exact}
        observation, _, _, _, guided_info = guided.step(forces)
        assert guided_info["newton_iterations"] < info["newton_iterations"]
        np.testing.assert_allclose(observation, exact, atol=1e-4)
        for bad in (np.full_like(exact, np.nan), -20 * beam.rest_positions, 100 * exact):
            guided.predictor = lambda inputs, bad=bad: {"displacement": bad}
            np.testing.assert_allclose(guided.step(forces)[0], exact, atol=1e-4)


def test_a_noisy_guess_is_relaxed(beam):
    block, solver = beam.block, beam.solver
    rng = np.random.default_rng(0)
    for forces in loads(beam, 5):
        forces = forces.astype(np.float64)
        found = solver.solve(forces)
        noise = rng.normal(scale=0.2, size=forces.shape)  # mm
        noise[: block.mesh.n_clamped] = 0
        noisy = block.state(found.displacement + noise)
        relaxed = block.relax(noisy, forces)
        energy = block.energy(found.displacement)
        assert block.energy(relaxed) - energy < 0.1 * (noisy.strain_energy - energy)
        again = solver.solve(forces, noisy.u)
        assert again.load_steps == 1
        assert again.iterations <= found.iterations + 3
        np.testing.assert_allclose(again.displacement, found.displacement, atol=1e-5)


def test_relaxing_the_state_of_rest_is_linear_elasticity(beam):
    forces = loads(beam, 1)[0].astype(np.float64)
    expected = beam.block.solve_band(beam.block.rest_factor, forces)
    np.testing.assert_allclose(beam.block.relax(beam.block.rest, forces), expected, atol=1e-8)


def test_asking_without_a_network_says_so(beam):
    with pytest.raises(SampleError, match="no network"):
        Beam(**QUICK, initial_guess="network").step(loads(beam, 1)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": (14, 4, 4), "order": 3}, r"Use nodes=\(13, 4, 4\)"),
        ({"nodes": (13, 4, 4), "order": 2}, r"multiple of 2, plus 1"),
        ({"nodes": (13, 4), "order": 3}, "nodes"),
        ({"order": 0}, "order"),
        ({"size": (100.0, -15.0, 15.0)}, "size"),
        ({"young_modulus": 0.0}, "young_modulus"),
        ({"young_modulus": float("nan")}, "young_modulus"),
        ({"poisson_ratio": 0.5}, "poisson_ratio"),
        ({"poisson_ratio": -0.1}, "poisson_ratio"),
        ({"initial_guess": "guess"}, "initial_guess"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"render_mode": "human"}, "render_mode"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Beam(**options)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "not finite"), (1e6, "component of 1e\\+06")])
def test_bad_actions_are_refused(beam, value, message):
    forces = loads(beam, 1)[0]
    forces[5, 1] = value
    with pytest.raises(SampleError, match=message):
        beam.step(forces)
    with pytest.raises(SampleError, match="shape"):
        beam.step(forces[1:])


def test_surface_is_closed_and_points_outwards(beam):
    corners = beam.rest_positions[beam.surface_faces]  # (m, 4, 3)
    normals = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]) / 2
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1).sum(), 2 * (15 * 15 + 2 * 100 * 15))
    np.testing.assert_allclose((normals * corners.mean(1)).sum() / 3, 100 * 15 * 15)  # Gauss: the volume, with sign


def test_elements_reproduce_a_uniform_strain():
    block = Block(BlockMesh((30.0, 10.0, 20.0), (5, 3, 3), 2), 2000.0, 0.3)
    gradient = 0.1 * np.random.default_rng(0).normal(size=(3, 3))
    state = block.state(block.mesh.positions @ gradient.T)
    np.testing.assert_allclose(state.deformation, np.broadcast_to((np.eye(3) + gradient)[:, :, None], (3, 3, 54)))


def test_solver_refuses_arrays_of_wrong_shape(beam):
    solver, n = Solver(beam.block), beam.block.n_nodes
    with pytest.raises(ValueError, match="forces"):
        solver.solve(np.zeros((n + 1, 3)))
    with pytest.raises(ValueError, match="forces"):
        solver.solve(np.full((n, 3), np.inf))
    with pytest.raises(ValueError, match="guess"):
        solver.solve(np.zeros((n, 3)), np.zeros((n, 2)))


@pytest.mark.slow
def test_picture_shows_the_prediction():
    beam = Beam(**QUICK, render_mode="rgb_array")
    beam.reset(seed=0)
    beam.step(loads(beam, 1)[0])
    alone = beam.render()
    assert (alone.dtype, alone.ndim, alone.shape[2]) == (np.uint8, 3, 3)
    beam.apply_prediction({"displacement": np.zeros(beam.observation_space.shape, np.float32)})
    assert (beam.render() != alone).any()
    assert Beam(**QUICK).render() is None


@pytest.mark.parametrize(("name", "n"), [("physgym/Beam-v0", 208), ("physgym/BeamFull-v0", 625)])
def test_registered_beams_end_after_one_step(name, n):
    physgym.envs.register()
    env = gymnasium.make(name)
    env.reset(seed=0)
    assert env.action_space.shape == (n, 3)
    assert env.step(loads(env.unwrapped, 1)[0])[3]
    env.close()
