"""Train from a stored dataset, without an environment."""

from functools import partial

import torch

import physgym
from physgym.nn import MLP, Optimization, RelativeL2
from physgym.training import EarlyStopping, Trainer


def main(samples=2000, epochs=25, out="sessions/from_dataset"):
    # somebody made it, some day, somewhere
    physgym.generate("physgym/Burgers-v0", f"{out}/dataset", samples=samples, num_workers=2, resume=True)

    dataset = physgym.SampleDataset(f"{out}/dataset")
    network = MLP.from_spec(dataset.spec, hidden=(128, 128))
    optimization = Optimization(
        network,
        loss=RelativeL2,
        optimizer=partial(torch.optim.AdamW, weight_decay=1e-3),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs),
    )
    trainer = Trainer(
        network,
        dataset,
        optimization=optimization,
        epochs=epochs,
        validation=0.2,  # of the episodes
        session=out,
        callbacks=[EarlyStopping(patience=10)],
    )
    history = trainer.fit()
    print(f"validation loss {min(history['validation_loss']):.2e} after {trainer.epoch} epochs {history.stopped}")
    return trainer


if __name__ == "__main__":
    main()
