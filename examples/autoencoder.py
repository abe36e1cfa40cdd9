"""Pictures of a driver as 32 numbers, and what an autoencoder makes of them."""

import gymnasium
import numpy as np
import torch

import physgym
from physgym.nn import Autoencoder, AutoencoderOptimization
from physgym.rl import PictureComparison, Preprocessing
from physgym.training import Trainer

CROP = {"type": "Crop", "arguments": {"rows": [40, 120, 2], "columns": [0, 160, 2]}}


def main(out="sessions/autoencoder", episodes=40, epochs=15, regularity="variational"):
    track = gymnasium.make("physgym/Track-v0", max_episode_steps=100)
    with physgym.Recorder(Preprocessing([CROP]).wrap(track), f"{out}/pictures") as env:
        generator = np.random.default_rng(0)
        for episode in range(episodes):
            over, _ = False, env.reset(seed=episode)
            while not over:  # an unsteady driver
                _, _, terminated, truncated, _ = env.step(env.unwrapped.sample_action(generator))
                over = terminated or truncated

    dataset, field = physgym.SampleDataset(f"{out}/pictures"), ["observation"]
    torch.manual_seed(0)
    network = Autoencoder.from_spec(dataset.spec, inputs=field, regularity=regularity)
    loss = AutoencoderOptimization(network, lr=2e-3)
    looks = [PictureComparison(dataset[::1000]["observation"], f"{out}/compared", every=5)]
    trainer = Trainer(network, dataset, inputs=field, outputs=field, epochs=epochs, optimization=loss, callbacks=looks)
    print(f"mean square of pictures from 0 to 1: {trainer.fit()['validation_reconstruction'][-1]:.4f}")

    physgym.training.save_checkpoint(f"{out}/encoder", trainer.predictor)
    latent = {"type": "LatentObservation", "arguments": {"checkpoint": f"{out}/encoder"}}
    return Preprocessing([CROP, latent]).wrap(track)  # what an agent may drive by


if __name__ == "__main__":
    print(main().reset(seed=0)[0])
