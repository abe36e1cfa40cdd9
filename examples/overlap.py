"""Learn while others simulate.

A network learns from some environments while the others simulate. No simulator waits for a slower one.
"""

import numpy as np
import torch

import physgym

if __name__ == "__main__":
    rng = np.random.default_rng(0)
    network = torch.nn.Linear(4, 4)  # learns the next state from the present one
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    with physgym.make_vec("CartPole-v1", num_envs=16, num_workers=2) as envs:
        state, _ = envs.reset(seed=0)
        fresh = np.zeros(16, bool)  # environments whose episode ended: their next step only resets them
        envs.send(envs.action_space.sample())
        for update in range(300):
            seen, _, terminations, truncations, _, ids = envs.recv(min_envs=8)  # those that are ready
            envs.send(rng.integers(2, size=len(ids)), ids)  # they simulate on while we learn
            known = ~fresh[ids]
            loss = (network(torch.as_tensor(state[ids][known])) - torch.as_tensor(seen[known])).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state[ids], fresh[ids] = seen, terminations | truncations
            if update % 100 == 99:
                print(f"update {update + 1}: loss {loss.item():.4f}")
