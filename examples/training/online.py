"""Train while the simulations run.

The network learns from a buffer of what they have given so far."""

import torch

import physgym
from physgym.data import Online, SampleStream
from physgym.nn import MLP
from physgym.training import Trainer

BATCH = 50


def main(samples=4000, epochs=20, out="sessions/online"):
    held_out = physgym.generate(
        "physgym/Spring-v0", f"{out}/validation", samples=samples // 10, seed=1, max_steps=10, resume=True
    )
    # with a path the samples are stored on the way
    stream = SampleStream("physgym/Spring-v0", path=f"{out}/dataset", num_workers=1, max_steps=10, resume=True)
    online = Online(stream, capacity=samples // 2, minimum=samples // 10, rule="reservoir", samples=samples)
    trainer = Trainer(
        MLP.from_spec(stream.spec, hidden=(64, 64)),
        source=online,
        produce="always",
        batch_size=BATCH,
        batches_per_epoch=samples // BATCH,
        validation=held_out,
        epochs=epochs,
        session=out,
    )
    torch.set_num_threads(1)  # the simulations want the other cores
    history = trainer.fit()
    print(online.report())
    print(f"validation loss {history['validation_loss'][-1]:.2e}")
    return trainer


if __name__ == "__main__":
    main()
