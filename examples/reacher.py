"""The dynamics of an arm in MuJoCo.

MuJoCo's Reacher is a simulation whose steps a network learns. Needs mujoco.
"""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

import physgym

MODEL = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "reacher.xml"
STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class Reacher(physgym.Simulation):
    """Action: torques of both joints, relative. Observation: their angles, rad, and velocities, rad/s."""

    action_space = spaces.Box(-1, 1, (2,), np.float64)
    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    sample_space = spaces.Dict(state=observation_space, torque=action_space, next_state=observation_space)
    sample_roles = {"state": "input", "torque": "input", "next_state": "target"}
    sample_feedback = {"next_state": "state"}
    files_read, time_step = (str(MODEL),), 0.02

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.model = mujoco.MjModel.from_xml_path(str(MODEL))
        self.data, self.torque, self.before = mujoco.MjData(self.model), np.zeros(2), np.zeros(4)

    def begin(self, options):
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:2], self.data.qvel[:2] = self.np_random.uniform([[-2, -2], [-5, -5]], [[2, 2], [5, 5]])

    def advance(self, action):
        self.before, self.torque = self.observation(), np.array(action)
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, nstep=2)

    def observation(self):
        return np.concatenate([self.data.qpos[:2], self.data.qvel[:2]])

    def sample(self):
        return {"state": self.before, "torque": self.torque, "next_state": self.observation()}

    def inputs(self, action):
        return {"state": self.observation(), "torque": action}

    def adopt(self, action, prediction):
        self.before, self.torque = self.observation(), np.array(action)
        self.data.qpos[:2], self.data.qvel[:2] = prediction["next_state"].reshape(2, 2)

    def state(self):
        words = np.zeros(mujoco.mj_stateSize(self.model, STATE))
        mujoco.mj_getState(self.model, self.data, words, STATE)
        return {"mujoco": words}

    def set_state(self, state):
        mujoco.mj_setState(self.model, self.data, self.checked_state(state)["mujoco"], STATE)


gymnasium.register("example/Reacher-v0", Reacher, max_episode_steps=50)

if __name__ == "__main__":
    from physgym.nn import MLP
    from physgym.runner import Runner
    from physgym.training import Trainer

    dataset = physgym.generate("example/Reacher-v0", "data/reacher", samples=20000)
    trainer = Trainer(MLP.from_spec(dataset.spec, hidden=(128, 128)), dataset, epochs=20, session="sessions/reacher")
    trainer.fit()
    with Runner("example/Reacher-v0", trainer.predictor, seed=1) as runner:
        print(runner.run(100).errors["next_state"].summary)  # of steps that the network has not seen
