"""The shipped simulations; `register` tells Gymnasium about them."""

from __future__ import annotations

import gymnasium
from gymnasium.envs.registration import WrapperSpec

DONKEYCAR = "physgym/DonkeyCar-v0"
COMMAND = "physgym/Command-v0"
FMU = "physgym/Fmu-v0"
MPI = "physgym/Mpi-v0"
UMBRIDGE = "physgym/UmBridge-v0"
# of programs and models of others, which somebody has to have; the rest runs as it is
OF_OTHERS = (DONKEYCAR, COMMAND, FMU, MPI, UMBRIDGE)
HEAT_BATCH = "physgym/HeatBatch-v0"


def register() -> None:
    """Register the shipped simulations; importing physgym does, and doing it again does no harm."""
    for env_id, entry_point, max_episode_steps, kwargs in (
        ("physgym/Spring-v0", "physgym.envs.spring:Spring", 100, {}),
        ("physgym/Beam-v0", "physgym.envs.beam:Beam", 1, {"nodes": (13, 4, 4), "order": 3}),
        ("physgym/BeamFull-v0", "physgym.envs.beam:Beam", 1, {"nodes": (25, 5, 5), "order": 2}),
        ("physgym/Burgers-v0", "physgym.envs.burgers:Burgers", 1, {}),
        ("physgym/BurgersStep-v0", "physgym.envs.burgers_step:BurgersStep", 20, {}),
        ("physgym/Darcy-v0", "physgym.envs.darcy:Darcy", 1, {}),
        ("physgym/Heat-v0", "physgym.envs.heat:Heat", 20, {}),
        ("physgym/KuramotoSivashinsky-v0", "physgym.envs.kuramoto_sivashinsky:KuramotoSivashinsky", 100, {}),
        ("physgym/NavierStokes2D-v0", "physgym.envs.navier_stokes:NavierStokes2D", 50, {}),
        ("physgym/Track-v0", "physgym.envs.track:Track", 1000, {}),
        (COMMAND, "physgym.adapters.command:CommandSimulation", None, {}),
        (FMU, "physgym.adapters.fmu:FmuSimulation", 100, {}),
        (MPI, "physgym.adapters.mpi:MpiSimulation", 100, {}),
        (UMBRIDGE, "physgym.adapters.umbridge:UmBridgeSimulation", 1, {}),
    ):
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point=entry_point,
                vector_entry_point=_vector_entry_point(env_id),
                max_episode_steps=max_episode_steps,
                kwargs=kwargs,
            )
    if HEAT_BATCH not in gymnasium.registry:  # whose rows are computed together
        gymnasium.register(HEAT_BATCH, vector_entry_point="physgym.envs.heat_batch:HeatBatch", max_episode_steps=20)
    if DONKEYCAR not in gymnasium.registry:  # of a simulator that somebody else starts
        gymnasium.register(
            DONKEYCAR,
            entry_point="physgym.adapters.donkeycar:DonkeyCarEnv",
            vector_entry_point=_vector_entry_point(DONKEYCAR),
            max_episode_steps=1000,
            nondeterministic=True,
            additional_wrappers=(WrapperSpec("RecordTransition", "physgym.sample:RecordTransition", {}),),
        )


def _vector_entry_point(env_id: str) -> str:
    return f"physgym.vector.make:{env_id.removeprefix('physgym/').replace('-', '_')}"
