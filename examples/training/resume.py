"""Resume a training that was killed: it ends with the same weights, bit for bit."""

import torch

import physgym
from physgym.nn import MLP
from physgym.training import Callback, Checkpoints, Trainer


class PowerCut(Callback):
    def batch_end(self, trainer, values):
        if trainer.epoch == trainer.epochs // 2 and trainer.batch == trainer.num_batches // 2:
            raise SystemExit("the power is cut")


def train(dataset, epochs, session, callbacks=()):
    torch.manual_seed(0)  # the same initial weights, if there is no checkpoint
    network = MLP.from_spec(dataset.spec, hidden=(64, 64), dropout=0.1)
    saves = Checkpoints(f"{session}/networks", steps=20)  # also within epochs
    trainer = Trainer(network, dataset, epochs=epochs, session=session, callbacks=[saves, *callbacks], resume=True)
    trainer.fit()
    return trainer


def main(samples=2000, epochs=10, out="sessions/resume"):
    dataset = physgym.generate("physgym/Spring-v0", f"{out}/dataset", samples=samples, max_steps=10, resume=True)
    whole = train(dataset, epochs, f"{out}/whole")
    try:
        train(dataset, epochs, f"{out}/killed", [PowerCut()])
    except SystemExit as reason:
        print(reason)
    resumed = train(dataset, epochs, f"{out}/killed")  # the same call again
    pairs = zip(whole.predictor.parameters(), resumed.predictor.parameters(), strict=True)
    print("the same weights:", all(torch.equal(a, b) for a, b in pairs))
    return whole, resumed


if __name__ == "__main__":
    main()
