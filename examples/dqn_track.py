"""Double DQN drives on random tracks.

It sees five numbers, or pictures: ``python examples/dqn_track.py [--pixels --steps 300000 --workers 2]``
"""

import argparse

from physgym.rl import AgentTrainer, evaluate_agent, load_agent

BINS = {"type": "DiscretizeAction", "arguments": {"bins": [7, 2]}}  # of steering and throttle
ROAD = {"type": "Crop", "arguments": {"rows": [40, 120, 2], "columns": [0, 160, 2]}}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", action="store_true", help="learn from pictures, four at a time")
    parser.add_argument("--steps", type=int, default=40_000, help="steps of all environments together")
    parser.add_argument("--workers", type=int, default=0, help="processes that these run in")
    parser.add_argument("--session", default="sessions/dqn_track")
    given = parser.parse_args()
    seen = {"observation": "camera" if given.pixels else "state"}
    trainer = AgentTrainer(
        "dqn",
        "physgym/Track-v0",
        agent_kwargs={"gamma": 0.97},
        env_kwargs={**seen, "tracks": [0, 1000]},
        preprocessing=[ROAD, "GrayscaleObservation", BINS] if given.pixels else [BINS],
        stack=4 if given.pixels else 1,
        steps=given.steps,
        num_workers=given.workers,
        session=given.session,
    )
    trainer.fit()
    held_out = {**seen, "tracks": [1000, 1020]}  # tracks that it has not driven on
    print(evaluate_agent(load_agent(trainer.session), "physgym/Track-v0", episodes=20, env_kwargs=held_out))


if __name__ == "__main__":
    main()
