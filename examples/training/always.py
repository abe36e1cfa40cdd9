"""Fresh samples in every epoch.

The simulations run as long as the training does. Nothing is stored."""

import physgym
from physgym.data import SampleStream
from physgym.nn import MLP
from physgym.training import Trainer

BATCH = 50


def main(samples=1000, epochs=20, out="sessions/always"):
    held_out = physgym.generate(
        "physgym/Spring-v0", f"{out}/validation", samples=samples // 4, seed=1, max_steps=10, resume=True
    )
    stream = SampleStream("physgym/Spring-v0", num_workers=2, seed=0, max_steps=10)
    trainer = Trainer(
        MLP.from_spec(stream.spec, hidden=(64, 64)),
        source=stream,
        produce="always",
        batch_size=BATCH,
        batches_per_epoch=samples // BATCH,
        validation=held_out,  # the training loss is one on unseen samples as well
        epochs=epochs,
        session=out,
    )
    history = trainer.fit()
    print(f"{trainer.step * BATCH} samples, validation loss {history['validation_loss'][-1]:.2e}")
    return trainer


if __name__ == "__main__":
    main()
