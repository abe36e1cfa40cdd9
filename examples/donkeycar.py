"""Double DQN drives a DonkeyCar, here in a simulator that needs no Unity."""

import sys

from physgym.adapters.donkeycar import DonkeyCarEnv
from physgym.rl.agent_trainer import AgentTrainer
from physgym.testing.fake_donkey import FakeDonkey

CROP = {"type": "Crop", "arguments": {"rows": [40, 120, 2], "columns": [0, 160, 2]}}  # (40, 80)
BINS = {"type": "DiscretizeAction", "arguments": {"bins": [7, 2]}}


def main(out="sessions/donkeycar", steps=20_000, learning_starts=500, batch_size=32):
    with FakeDonkey(period=0.01) as simulator:
        trainer = AgentTrainer(
            "dqn",
            DonkeyCarEnv,
            env_kwargs={"port": simulator.port, "max_cte": 4.0, "timeout": 20.0},  # of the real one: command, scene
            steps=steps,
            num_envs=1,
            num_workers=1,
            on_error="restart",  # a simulator that hangs or dies is left, and the car starts again
            preprocessing=[CROP, "GrayscaleObservation", BINS],
            stack=2,
            learning_starts=learning_starts,
            learn_every=4,
            batch_size=batch_size,
            infos=["cte", "speed", "lap_count"],
            report_every=max(1, steps // 20),
            session=out,
        )
        trainer.fit()
    print("mean returns:", [round(epoch["return"], 1) for epoch in trainer.history.epochs if "return" in epoch])
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
