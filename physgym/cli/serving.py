"""The command that serves a trained network to other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from physgym.cli.app import app, check_there
from physgym.engine_names import Engine
from physgym.errors import ConfigError


@app.command()
def serve_model(
    session: Annotated[Path, typer.Argument(help="Session folder of a training, or a checkpoint.")],
    umbridge: Annotated[
        bool, typer.Option("--umbridge", help="Serve by the protocol of UM-Bridge, JSON over HTTP.")
    ] = False,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "forward",
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. The protocol has no secret: everybody who reaches the port may use the model."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 4242,
    which: Annotated[str | None, typer.Option(help="Checkpoint: last, best, or an epoch that is kept.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to compute, such as cuda, or auto.")] = None,
    engine: Annotated[Engine, typer.Option(help="What computes predictions; derivatives are torch's.")] = "torch",
) -> None:
    """Serve a network as an UM-Bridge model, until Ctrl-C.

    Its vectors are the input and output fields, in their order.

    Example: physgym serve-model sessions/spring --umbridge --port 4242
    """
    if not umbridge:
        raise ConfigError("say by which protocol: --umbridge")
    check_there(trained=session)
    from physgym.adapters.umbridge_server import ServedNetwork, UmBridgeServer
    from physgym.experiment.evaluate import network_for

    network = ServedNetwork(network_for(session, which, device), name, engine)
    server = UmBridgeServer(network, host, port)
    print(f"model {name!r} at {server.url}")
    print("\n".join(f"  {line}" for line in network.lines), flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()
