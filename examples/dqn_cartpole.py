"""Double DQN balances a pole.

The agent trains in a session, then acts without exploration. After an interruption, continue with ``--resume``::

    python examples/dqn_cartpole.py --steps 60000
"""

import argparse

from physgym.rl import AgentTrainer, evaluate_agent, load_agent


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60_000, help="steps of all environments together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=100, help="episodes of the evaluation in the end")
    parser.add_argument("--session", default="sessions/dqn_cartpole")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    trainer = AgentTrainer(
        "dqn",
        "CartPole-v1",
        agent_kwargs={"lr_steps": max(1, (given.steps - 1000) // 2)},  # all gradient steps: the learning rate falls
        steps=given.steps,
        gradient_steps=4,  # for each step of the 8 environments
        normalize_observations=True,
        num_workers=0,
        evaluate_every=10_000,
        session=given.session,
        seed=given.seed,
        resume=given.resume,
    )
    trainer.fit()
    print(evaluate_agent(load_agent(trainer.session), "CartPole-v1", episodes=given.episodes))


if __name__ == "__main__":
    main()
