"""Physical loss terms against the solvers of the shipped simulations, and against formulas."""

from __future__ import annotations

import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from physgym.envs.beam import Beam
from physgym.envs.elasticity import Block, BlockMesh
from physgym.envs.heat import Heat
from physgym.errors import ConfigError
from physgym.nn import MLP, ElasticEnergy, HeatResidual, Laplacian, Optimization, PoissonResidual, Transforms
from physgym.training import Trainer
from tests.support.commands import run_program
from tests.support.memory_samples import MemorySamples, spec_of

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "howto" / "networks.md"


def grid(sizes, steps, first=0):
    axes = [step * (torch.arange(n, dtype=torch.float64) + first) for n, step in zip(sizes, steps, strict=True)]
    return torch.meshgrid(*axes, indexing="ij")


def rms(residual):
    return residual.square().mean().sqrt().item()


# --- grids


@pytest.mark.parametrize("sizes", [(8,), (6, 5), (4, 3, 5)])
def test_inner_laplacian_of_a_parabola_is_exact(sizes):
    steps = (0.5, 0.2, 2.0)[: len(sizes)]
    coordinates = grid(sizes, steps)
    field = sum((i + 1) * x**2 for i, x in enumerate(coordinates)).expand(2, 3, *sizes)  # batch and channels
    got = Laplacian(steps)(field)
    assert got.shape == (2, 3, *(n - 2 for n in sizes))
    torch.testing.assert_close(got, torch.full_like(got, sum(2.0 * (i + 1) for i in range(len(sizes)))))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("boundary", ["zeros", "circular", "replicate"])
def test_laplacian_of_the_modes_of_each_boundary(boundary, dimensions):
    """Sines, exponentials and cosines are eigenvectors, with the eigenvalues of the second difference."""
    sizes, steps, k = (7, 6, 8)[:dimensions], (0.3, 0.7, 1.1)[:dimensions], 2
    field, eigenvalue = torch.ones(1, *sizes, dtype=torch.float64), 0.0
    for axis, (n, step) in enumerate(zip(sizes, steps, strict=True)):
        at = torch.arange(n, dtype=torch.float64)
        angle = {"zeros": np.pi * k / (n + 1), "circular": 2 * np.pi * k / n, "replicate": np.pi * k / n}[boundary]
        along = {"zeros": torch.sin(angle * (at + 1)), "circular": torch.sin(angle * at + 0.3)}
        mode = along.get(boundary, torch.cos(angle * (at + 0.5)))
        field = field * mode.view(-1, *(1,) * (dimensions - 1 - axis))
        eigenvalue -= (2 * np.sin(angle / 2) / step) ** 2
    torch.testing.assert_close(Laplacian(steps, boundary)(field), eigenvalue * field)


def test_a_steady_temperature_solves_poissons_equation():
    """The plate after a very long step, by the solver's sine series."""
    env = Heat(size=63, time_step=1e6)
    env.reset(seed=0)
    env.step(env.sample_action(np.random.default_rng(1)))
    field, source = (torch.from_numpy(np.array([env.sample()[name]])) for name in ("next_temperature", "source"))
    for boundary, shape in (("zeros", (1, 63, 63)), ("inner", (1, 61, 61))):
        term = PoissonResidual((0.1 / 64,) * 2, diffusivity=1e-4, boundary=boundary)
        residual = term.residual(field, source)
        assert residual.shape == shape
        assert rms(residual) < 0.04 * rms(source)
        assert term(field, source).item() == pytest.approx(rms(residual) ** 2)
        for wrong in (1.1 * field, field.roll(1, 1), field + 0.01 * torch.randn_like(field)):
            assert term(wrong, source).sqrt() > 0.09 * rms(source)


@pytest.fixture(scope="module")
def heated():
    """Before, source, after: ten small steps of a plate, in float64; later ones, when the edge has cooled the spots."""
    env = Heat(time_step=0.02)
    env.reset(seed=0)
    rng, found = np.random.default_rng(1), []
    for _ in range(20):
        env.step(env.sample_action(rng))
        found.append([np.array(env.sample()[name]) for name in ("temperature", "source", "next_temperature")])
    return [torch.from_numpy(np.array(column)) for column in zip(*found[10:], strict=True)]


def test_a_step_of_the_solver_solves_the_heat_equation(heated):
    before, source, after = heated
    term = HeatResidual((0.1 / 65,) * 2, 0.02, diffusivity=1e-4, boundary="zeros")
    solved = term(after, before, source).sqrt()
    rate = rms((after - before) / 0.02)
    assert solved < 0.03 * rate
    wrong = {
        "no step": (before, before, source),
        "no source": (after, before, None),
        "1 % too hot": (1.01 * after, before, source),
        "moved": (after.roll(1, 2), before, source),
        "noise of 0.1 K": (after + 0.1 * torch.randn_like(after), before, source),
    }
    for name, fields in wrong.items():
        assert term(*fields).sqrt() > 8 * solved, name
    inner = HeatResidual((0.1 / 65,) * 2, 0.02, diffusivity=1e-4)
    assert inner.residual(after, before, source).shape == (10, 62, 62)
    torch.testing.assert_close(
        inner.residual(after, before, source), term.residual(after, before, source)[:, 1:-1, 1:-1]
    )


def test_the_heat_residual_converges_with_time_step_and_spacing():
    def solved(size: int, time_step: float, implicitness: float) -> float:
        x = grid((size,), (1 / (size + 1),), 1)[0]
        before = torch.sin(torch.pi * x)[None]
        after = before * np.exp(-(np.pi**2) * time_step)
        term = HeatResidual((1 / (size + 1),), time_step, diffusivity=1.0, boundary="zeros", implicitness=implicitness)
        return rms(term.residual(after, before))

    assert solved(15, 0.01, 0.5) / solved(31, 0.005, 0.5) == pytest.approx(4, rel=0.05)
    assert solved(511, 0.02, 1.0) / solved(511, 0.01, 1.0) == pytest.approx(2, rel=0.1)
    assert solved(511, 0.02, 0.0) / solved(511, 0.01, 0.0) == pytest.approx(2, rel=0.1)


def test_gradients_reach_the_fields():
    field, source = torch.rand(2, 2, 5, 4, dtype=torch.float64, requires_grad=True).unbind(0)
    assert torch.autograd.gradcheck(PoissonResidual((0.5, 0.4), boundary="replicate"), (field, source))
    term = HeatResidual((0.5, 0.4), 0.1, diffusivity=2.0, boundary="circular")
    assert torch.autograd.gradcheck(term, (field, source, source))


def test_grid_terms_name_what_does_not_fit():
    with pytest.raises(ConfigError, match=r"boundary is one of .* not 'reflect'"):
        Laplacian((1.0,), "reflect")
    for spacing in ((), (0.0,), (1.0, np.inf), (np.nan,)):
        with pytest.raises(ConfigError, match="spacing must hold a positive number"):
            Laplacian(spacing)
    with pytest.raises(ConfigError, match=r"shape \(5,\) has too few axes"):
        Laplacian((1.0,))(torch.rand(5))
    with pytest.raises(ConfigError, match="no inner ones"):
        Laplacian((1.0, 1.0))(torch.rand(3, 5, 2))
    with pytest.raises(ConfigError, match=r"source has shape \(1, 5\), the other field \(3, 5\)"):
        PoissonResidual((1.0,))(torch.rand(3, 5), torch.rand(1, 5))
    with pytest.raises(ConfigError, match=r"before has shape"):
        HeatResidual((1.0,), 0.1, diffusivity=1.0)(torch.rand(3, 5), torch.rand(3, 4))
    for options in ({"time_step": 0.0}, {"diffusivity": -1.0}, {"implicitness": 1.5}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            HeatResidual((1.0,), **{"time_step": 0.1, "diffusivity": 1.0, **options})


# --- the beam


@pytest.fixture(scope="module")
def beam():
    return Beam(nodes=(7, 4, 4), order=3)


@pytest.fixture(scope="module")
def solved(beam):
    """Forces and equilibria of random loads, shape (4, n, 3), float64."""
    rng = np.random.default_rng(0)
    forces = np.array([beam.sample_action(rng) for _ in range(4)], np.float64)
    return forces, np.array([beam.solver.solve(load).displacement for load in forces])


def test_energy_and_gradient_are_those_of_the_solver(beam, solved):
    block, clamped = beam.block, beam.mesh.n_clamped
    energy = ElasticEnergy(block)
    forces, u = solved
    u = u + np.random.default_rng(1).normal(0, 0.1, u.shape)  # out of equilibrium
    u[:, :clamped] = 0
    given = torch.tensor(u, requires_grad=True)
    strain = energy.strain_energy(given)
    np.testing.assert_allclose(strain.detach(), [block.energy(one) for one in u], rtol=1e-12)
    (gradient,) = torch.autograd.grad(strain.sum(), given)
    internal = np.array([block.internal_forces(block.state(one)) for one in u])
    np.testing.assert_allclose(gradient[:, clamped:], internal[:, clamped:], atol=1e-9 * np.abs(internal).max())
    assert (gradient[:, :clamped] == 0).all()
    work = np.einsum("bni,bni->b", forces, u)
    potential = energy.potential(given, torch.from_numpy(forces))
    np.testing.assert_allclose(potential.detach(), strain.detach().numpy() - work, rtol=1e-12)
    assert energy(given, torch.from_numpy(forces)).item() == pytest.approx(potential.mean().item())


def test_the_solvers_displacement_is_an_equilibrium_and_a_perturbed_one_is_not(beam, solved):
    energy = ElasticEnergy(beam.block)
    forces, u = map(torch.from_numpy, solved)

    def unbalanced(displacement):
        given = displacement.clone().requires_grad_()
        (left,) = torch.autograd.grad(energy.potential(given, forces).sum(), given)
        return (left.norm(dim=(1, 2)) / forces.norm(dim=(1, 2))).max().item()

    assert unbalanced(u) < 1e-7
    least = energy.potential(u, forces)
    for wrong in (0.99 * u, u + 1e-3 * torch.randn_like(u), torch.zeros_like(u)):
        assert unbalanced(wrong) > 0.01
        assert (energy.potential(wrong, forces) > least).all()


def test_it_computes_in_float64_whatever_it_is_given(beam, solved):
    energy = ElasticEnergy(beam.block)
    forces, u = (torch.from_numpy(value).float() for value in solved)
    exact = energy.potential(u.double(), forces.double())
    small = u.clone().requires_grad_()
    got = energy.potential(small, forces)
    assert got.dtype == torch.float64
    assert torch.equal(got, exact)
    got.sum().backward()
    assert small.grad.dtype == torch.float32


def test_shipped_beams_fit():
    for env_id in ("physgym/Beam-v0", "physgym/BeamFull-v0"):
        env = gymnasium.make(env_id).unwrapped
        u = np.random.default_rng(0).normal(0, 0.1, (1, env.block.n_nodes, 3))
        u[:, : env.mesh.n_clamped] = 0
        assert ElasticEnergy(env.block).strain_energy(torch.from_numpy(u)).item() == pytest.approx(
            env.block.energy(u[0]), rel=1e-12
        )


def test_the_clamp_holds(beam, solved):
    energy = ElasticEnergy(beam.block)
    forces, u = map(torch.from_numpy, solved)
    pulled = u.clone()
    pulled[:, : beam.mesh.n_clamped] += 5.0
    assert torch.equal(energy.potential(pulled, forces), energy.potential(u, forces))


def test_elements_inside_out_cost_more_and_more_energy():
    block = Block(BlockMesh((1.0, 1.0, 1.0), (2, 2, 2), 1), 1.0, 0.3)
    energy = ElasticEnergy(block, floor=0.1)
    end = torch.from_numpy(block.mesh.positions[:, :1] * [1.0, 0.0, 0.0])
    stretch = torch.linspace(1.5, -3.0, 451, dtype=torch.float64, requires_grad=True)  # of the length, J with it
    values = energy.strain_energy((stretch - 1)[:, None, None] * end)
    (slope,) = torch.autograd.grad(values.sum(), stretch)
    assert torch.isfinite(values).all()
    assert (slope[stretch < 0.99] < 0).all()  # ever more
    at = int((stretch < 0.1).nonzero()[0])
    torch.testing.assert_close(slope[at], slope[at - 1], rtol=0.15, atol=0)  # no jump where the tangent begins
    for one in (1.5, 1.0, 0.11):
        exact = block.energy((one - 1) * end.numpy())
        got = energy.strain_energy((one - 1) * end[None]).item()
        assert got == pytest.approx(exact, rel=1e-12, abs=1e-15)


def test_energy_names_what_does_not_fit(beam):
    energy = ElasticEnergy(beam.block)
    good = torch.zeros(2, 112, 3)
    with pytest.raises(
        ConfigError, match=r"the displacement has shape \(2, 111, 3\); this block wants \(batch, 112, 3\)"
    ):
        energy(good[:, 1:], good)
    for forces in (good[..., :2], good[:1]):
        with pytest.raises(ConfigError, match="forces has shape"):
            energy(good, forces)
    for floor in (0.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="floor"):
            ElasticEnergy(beam.block, floor=floor)


class EnergyAlone(Optimization):
    """No solution is shown: the loss is the potential energy of what is predicted."""

    def __init__(self, network, block, **options):
        super().__init__(network, **options)
        self.energy = ElasticEnergy(block)

    def compute_loss(self, prediction, target):
        return self.energy(prediction["displacement"], target["forces"])


@pytest.mark.slow
def test_a_network_learns_from_the_energy_alone(beam, solved):
    rng = np.random.default_rng(5)
    forces = np.array([beam.sample_action(rng) for _ in range(64)])
    arrays = {"forces": forces, "displacement": np.zeros_like(forces)}  # the solution is not known
    samples = MemorySamples(arrays, spec_of(arrays, {"forces": "input", "displacement": "target"}))
    torch.manual_seed(0)
    network = MLP.from_spec(samples.spec, hidden=(64,))
    torch.nn.init.zeros_(network.head.weight)  # it starts at rest, where the energy is zero
    torch.nn.init.zeros_(network.head.bias)
    trainer = Trainer(
        network,
        samples,
        epochs=40,
        batch_size=64,
        validation=None,
        optimization=EnergyAlone(network, beam.block, lr=1e-4),
        transforms=Transforms.normalizing(samples.spec, outputs=[]).fit(samples.statistics),
        loss_fields=["forces"],
        progress=False,
    )
    energies = trainer.fit()["loss"]
    assert energies[0] == 0
    assert energies[-1] < -1.0
    unseen = trainer.predictor.predict({"forces": solved[0].astype(np.float32)}, batched=True)["displacement"]
    assert trainer.optimization.energy(torch.from_numpy(unseen), torch.from_numpy(solved[0])) < -0.5


# --- the document


@pytest.mark.slow
def test_the_documents_code_runs(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    script = tmp_path / "document.py"
    script.write_text("\n".join(["import warnings", "warnings.simplefilter('error')", *blocks]))
    done = run_program(tmp_path, script)
    assert done.returncode == 0, done.stderr
    network, no_change = (float(value) for value in re.findall(r": (0\.\d+)$", done.stdout, re.MULTILINE))
    assert network < 0.5 * no_change
