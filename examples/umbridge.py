"""A trained network as a UM-Bridge model.

Look for the least force that stops a mass, by the gradients of the network::

    python examples/umbridge.py [FOLDER]
"""

import sys
import threading

import physgym
from physgym.adapters.umbridge_client import UmBridgeModel
from physgym.adapters.umbridge_server import ServedNetwork, UmBridgeServer
from physgym.nn import MLP
from physgym.training import Trainer


def main(folder="data/umbridge", samples=2000, epochs=20, descents=50):
    """Train on the spring, serve the network, and look for the force after which the velocity is 0."""
    data = physgym.generate("physgym/Spring-v0", folder, samples=samples, max_steps=20, seed=1)
    trainer = Trainer(MLP.from_spec(data.spec, hidden=(32, 32)), data, epochs=epochs, batch_size=64)
    trainer.fit()
    server = UmBridgeServer(ServedNetwork(trainer.predictor, "spring"))
    threading.Thread(target=server.serve_forever).start()
    try:
        model = UmBridgeModel(server.url)
        force, parameters, state = 0.0, [10.0, 1.0, 0.5], [0.2, 0.3]
        for _ in range(descents):
            (after,) = model.evaluate([[force], parameters, state])
            sensitivity = [0.0, 2 * after[1]]  # of the squared velocity
            force -= 20 * model.gradient(0, 0, [[force], parameters, state], sensitivity)[0]
        model.close()
    finally:
        server.close()
    print(f"a force of {force:.2f} N leaves a velocity of {after[1]:.3f} m/s")
    return force, after


if __name__ == "__main__":
    main(*sys.argv[1:2])
