"""Start from an existing network.

The session either gets a second set of weights, or the training makes a new session."""

import physgym
from physgym.nn import MLP, Optimization
from physgym.training import Trainer, list_checkpoints, load_checkpoint


def main(samples=2000, epochs=15, out="sessions/from_network"):
    dataset = physgym.generate("physgym/Spring-v0", f"{out}/dataset", samples=samples, max_steps=10, resume=True)
    first = Trainer(MLP.from_spec(dataset.spec, hidden=(64, 64)), dataset, epochs=epochs, session=f"{out}/first")
    first.fit()

    # the predictor brings its fields and its normalization along
    known = load_checkpoint(f"{out}/first", "best")
    gently = Optimization(known.network, lr=1e-4)
    beside = Trainer(known, dataset, optimization=gently, epochs=epochs, session=f"{out}/first")
    beside.fit()
    for folder in list_checkpoints(f"{out}/first/networks"):
        print(folder)  # those of both; any of them by load_checkpoint(session, name)

    # another simulation, a session of its own: stiffer springs
    kwargs = {"stiffness": (20.0, 40.0)}
    stiffer = physgym.generate(
        "physgym/Spring-v0", f"{out}/stiffer", samples=samples, env_kwargs=kwargs, max_steps=10, resume=True
    )
    transferred = Trainer(load_checkpoint(f"{out}/first"), stiffer, epochs=epochs, session=f"{out}/second")
    transferred.fit()
    for name, trainer in {"first": first, "beside": beside, "transferred": transferred}.items():
        print(f"{name}: validation loss {trainer.history['validation_loss'][-1]:.2e}")
    return first, beside, transferred


if __name__ == "__main__":
    main()
