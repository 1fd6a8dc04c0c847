"""The command `x2i-platform serve`: images over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.named import tracking_server
from x2i_platform import options as opt
from x2i_platform.console import err


def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="models:/NAME@ALIAS, a folder, mini:alignnet.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    replicas: Annotated[str, typer.Option(help="Denoisers: a number, or 1-4 to scale with the load.")] = "1",
    encoder_replicas: Annotated[str, typer.Option(help="Encoders, likewise.")] = "1",
    num_cpus: Annotated[float, typer.Option(min=0.1, help="CPUs a replica.")] = 1.0,
    num_gpus: Annotated[float | None, typer.Option(min=0, help="GPUs a denoiser; default: the recipe's.")] = None,
    encoder_gpus: Annotated[float | None, typer.Option(min=0, help="GPUs an encoder; default: the recipe's.")] = None,
    batch_gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs a batch's worker; default: the recipe's.")
    ] = None,
    max_batch: Annotated[int | None, typer.Option(min=1, help="Images drawn together; default: the recipe's.")] = None,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; one more is answered 429.")] = 64,
    follow: Annotated[float, typer.Option(min=0.1, help="Seconds between looks at where an alias points.")] = 10.0,
    grace: Annotated[float, typer.Option(min=0, help="Seconds to finish or hand back, and end, when stopped.")] = 30.0,
    state: Annotated[Path | None, typer.Option(help="Folder of jobs, batches, audit log.")] = None,
    finish: Annotated[str | None, typer.Option(help="package.module:function for every image.")] = None,
    api_keys: Annotated[Path | None, typer.Option(help="File of lines NAME KEY; needed beyond loopback.")] = None,
    guards: Annotated[
        list[str] | None, typer.Option("--guard", help="Limit or permission, such as requests_per_minute=600.")
    ] = None,
    tracking_uri: opt.TrackingUri = None,
    address: opt.Address = None,
) -> None:
    """Serve models over HTTP in OpenAI's images schema, until Ctrl-C. Aliases are followed."""
    from pipelines import serve as flow

    arguments = {
        "model": models,
        "tracking_uri": tracking_server(tracking_uri),
        "replicas": replicas,
        "encoder_replicas": encoder_replicas,
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "encoder_gpus": encoder_gpus,
        "batch_gpus": batch_gpus,
        "max_batch": max_batch,
        "max_queued_requests": queue,
        "follow_s": follow,
        "state": None if state is None else str(state.absolute()),
        "finish": finish,
        "api_keys": None if api_keys is None else str(api_keys.absolute()),
        "guards": flow.named_values(guards or []),
    }
    endpoint = flow.Endpoint(host=host, port=port, grace_s=grace)
    ready = f"serving {', '.join(models)} at {endpoint.url}"
    flow.run(arguments, endpoint, address=address, on_ready=lambda _: err.print(ready))
