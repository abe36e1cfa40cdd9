"""Stored samples drive a simulation.

The simulation repeats the stored steps, and computes the inputs of the network. Here the stored samples are those of a
coarse grid in a viscous fluid. The network learns a finer grid with less viscosity."""

import physgym
from physgym.data import SampleStream
from physgym.nn import MLP
from physgym.training import Trainer

BATCH = 50
FINE = {"size": 128, "viscosity": 0.05}


def main(samples=1000, epochs=20, out="sessions/load_samples", produce="first_epoch"):
    coarse = {"size": 64, "viscosity": 0.1}
    stored = physgym.generate("physgym/Burgers-v0", f"{out}/coarse", samples=samples, env_kwargs=coarse, resume=True)
    stream = SampleStream(
        "physgym/Burgers-v0", env_kwargs=FINE, load=stored, path=f"{out}/fine", num_workers=2, resume=True
    )
    trainer = Trainer(
        MLP.from_spec(stream.spec, hidden=(128, 128)),
        source=stream,
        produce=produce,  # "always" goes through the stored samples in every epoch, in another order
        batch_size=BATCH,
        batches_per_epoch=samples // BATCH,
        epochs=epochs,
        session=out,
    )
    history = trainer.fit()
    print(f"{stored.spec['initial'].shape} -> {stream.spec['initial'].shape}, loss {history['loss'][-1]:.2e}")
    return trainer


if __name__ == "__main__":
    main()
