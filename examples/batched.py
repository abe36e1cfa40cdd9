"""Many heated plates at once.

Samples stay tensors up to the optimizer: ``python examples/batched.py --plates 256 --device cuda [--resume]``
"""

import argparse

from physgym import generate
from physgym.nn import UNet
from physgym.training import TensorSource, Trainer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plates", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="grid points per side")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--session", default="sessions/batched")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    env, plate = "physgym/HeatBatch-v0", {"size": given.size}
    seen = generate(env, f"{given.session}-test", mode="validation", samples=200, env_kwargs=plate, resume=True)
    source = TensorSource(env, num_envs=given.plates, env_kwargs={**plate, "device": given.device})
    trainer = Trainer(
        UNet.from_spec(source.spec, width=16, depth=2),
        source=source,
        produce="always",
        validation=seen,
        epochs=given.epochs,
        batches_per_epoch=100,
        device=given.device,
        session=given.session,
        resume=given.resume,
    )
    print(trainer.fit().epochs[-1])


if __name__ == "__main__":
    main()
