"""The residual of the heat equation in the loss, in addition to the error."""

import physgym
from physgym.nn import HeatResidual, Optimization, Transforms, UNet
from physgym.training import Trainer

SIZE = 32


class WithResidual(Optimization):
    residual = HeatResidual([0.1 / (SIZE + 1)] * 2, time_step=0.5, diffusivity=1e-4, boundary="zeros")  # m, s, m²/s

    def transform_loss(self, loss, prediction, target):
        residual = self.residual(prediction["next_temperature"], target["temperature"], target["source"])
        return {"loss": loss + 0.1 * residual, "error": loss, "residual": residual}  # TensorBoard shows all of them


def main(samples=400, epochs=15, out="sessions/physics"):
    dataset = physgym.generate(
        "physgym/Heat-v0", f"{out}/dataset", samples=samples, env_kwargs={"size": SIZE}, num_workers=2, resume=True
    )
    network = UNet.from_spec(dataset.spec, width=8, depth=2, norm="none", residual="temperature")
    trainer = Trainer(
        network,
        dataset,
        optimization=WithResidual(network, lr=2e-3),
        transforms=Transforms.normalization(dataset, physical_loss=True),  # the residual wants kelvins
        loss_fields=["next_temperature", "temperature", "source"],
        batch_size=16,
        epochs=epochs,
        session=out,
    )
    history = trainer.fit()
    for name in ("error", "residual"):
        print(f"{name}: {history[name][0]:.2e} -> {history[name][-1]:.2e}")
    return trainer


if __name__ == "__main__":
    main()
