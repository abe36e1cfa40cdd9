"""Train from scratch.

The simulations run before the first epoch. Their samples are stored, and used in every epoch."""

from physgym.data import SampleStream
from physgym.nn import MLP
from physgym.training import Trainer

BATCH = 50


def main(samples=2000, epochs=20, out="sessions/from_scratch"):
    stream = SampleStream("physgym/Spring-v0", path=f"{out}/dataset", num_workers=2, max_steps=10, resume=True)
    trainer = Trainer(
        MLP.from_spec(stream.spec, hidden=(64, 64)),
        source=stream,
        produce="first_epoch",
        batch_size=BATCH,
        batches_per_epoch=samples // BATCH,
        epochs=epochs,
        session=out,
        resume=True,  # run again with more epochs, it trains on, and with more samples it would simulate on
    )
    history = trainer.fit()
    print(f"{len(trainer.source.dataset())} samples, validation loss {history['validation_loss'][-1]:.2e}")
    return trainer


if __name__ == "__main__":
    main()
