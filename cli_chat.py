"""The command `x2i-platform chat`: a dialogue in the terminal."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipelines.named import model_folder
from x2i_platform import options as opt
from x2i_platform.console import fail, show, status, typed_lines
from x2i_platform.errors import InputError


def chat(
    model: opt.ModelName,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the images and the transcript.")] = Path(
        "x2i-chat"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Noise of every image; a change of words alone then shows.")] = 1,
    tracking_uri: opt.TrackingUri = None,
    overrides: opt.Overrides = None,
    as_json: opt.JsonFlag = False,
) -> None:
    """Talk with a model: a line, with @files, makes an image. /new begins anew, /quit ends.

    Files are named with an @: make @cat.png blue, or @"my cat.png". The MLLM's answers are context for later lines.
    """
    from pipelines.chat import Chat

    with status("loading the model"):
        talk = Chat(model_folder(model, tracking_uri), out=out_dir, overrides=overrides or [], seed=seed)
    for line in typed_lines("> "):
        if line in ("/quit", "/exit"):
            break
        if line == "/new":
            talk.dialogue.forget()
            continue
        try:
            with status("drawing"):
                answered = talk.say(line)
        except InputError as error:
            fail(str(error))
            continue
        show(asdict(answered), title=str(out_dir / answered.file), as_json=as_json)
