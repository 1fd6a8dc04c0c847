"""The command line: parse, call a pipeline, print. Heavy modules are imported inside the commands that need them.

Progress and tables go to stderr, results to stdout; `--json` makes the result one line of JSON. Exit codes: 0 done, 1 a
bug or a failed machine, 2 a user's mistake, 130 interrupted.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli_chat import chat
from cli_models import models
from cli_serve import serve
from pipelines.named import load_recipe, model_folder, pinned_model, tracking_server
from x2i_platform import options as opt
from x2i_platform.cache import require_home
from x2i_platform.console import configure, err, fail, note, progress_bar, show, show_rows
from x2i_platform.errors import X2IError

NAME = "x2i-platform"
INTERRUPTED = 130
"""Exit code of Ctrl-C, which typer may turn into a return value before we see it."""

app = typer.Typer(
    help="Distil AlignNet and generate images from any prompt a multimodal LLM understands.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


app.add_typer(models, name="models")
app.command()(chat)
app.command()(serve)


@app.callback()
def _configure(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False) -> None:
    configure(verbose=verbose)
    require_home()


@app.command()
def precompute(
    recipe: opt.RecipeName,
    captions: Annotated[str, typer.Option(help="File, folder, glob or s3:// URL of captions.")],
    store: opt.StoreOption,
    column: opt.Column = None,
    header: opt.Header = None,
    delimiter: opt.Delimiter = None,
    quoted: opt.Quoted = None,
    encoding: opt.Encoding = None,
    per_file: opt.PerFile = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only the first N lines.")] = None,
    overrides: opt.Overrides = None,
    address: opt.Address = None,
    dry_run: opt.DryRun = False,
    as_json: opt.JsonFlag = False,
) -> None:
    """Captions to features: T5 and CLIP outputs, MLLM states, attention targets. Run again to continue."""
    from pipelines import precompute as flow
    from x2i_platform.precompute.captions import Captions, Reading

    chosen = load_recipe(recipe, overrides)
    source = Captions(captions, Reading(column, header, delimiter, quoted, encoding, per_file), limit)
    note(source.found.left_out())
    if dry_run:
        show(flow.describe(chosen, source, store=store), title="would store", as_json=as_json)
        return
    with progress_bar("precompute", unit="captions") as progress:
        summary = flow.run(chosen, source, store=store, address=address, on_progress=progress)
    show(asdict(summary), title=f"stored in {store}", as_json=as_json)


@app.command()
def train(
    recipe: opt.RecipeName,
    store: opt.StoreOption,
    name: Annotated[str | None, typer.Option(help="Name of the registered model; default: the recipe's.")] = None,
    runs: Annotated[str, typer.Option(help="Folder or s3:// URL for checkpoints.")] = "x2i-runs",
    tracking_uri: opt.TrackingUri = None,
    overrides: opt.Overrides = None,
    address: opt.Address = None,
    dry_run: opt.DryRun = False,
    as_json: opt.JsonFlag = False,
) -> None:
    """Distil AlignNet from a feature store and register it. Run again to continue."""
    from pipelines import train as flow
    from x2i_platform.training.job import describe, prepare

    chosen = load_recipe(recipe, overrides)
    destination = flow.Destination(name or chosen.name, tracking_server(tracking_uri), runs)
    job = prepare(chosen, store=store)
    if dry_run:
        show(describe(job), title="would train", as_json=as_json)
        return
    with progress_bar("train", unit="steps") as progress:
        summary = flow.run(job, destination, address=address, on_progress=progress)
    show(asdict(summary), title="already trained" if summary.already_trained else "trained", as_json=as_json)


@app.command()
def generate(
    model: opt.ModelName,
    requests: Annotated[str, typer.Option(help="JSON Lines or Parquet with a prompt each, or OpenAI's batch file.")],
    out_dir: Annotated[str, typer.Option("--out", help="Folder or s3:// URL for the images.")],
    tracking_uri: opt.TrackingUri = None,
    overrides: opt.Overrides = None,
    address: opt.Address = None,
    as_json: opt.JsonFlag = False,
) -> None:
    """Make an image of every line of a request file. Run again to make what is missing."""
    from pipelines import generate as flow

    version = pinned_model(model, tracking_uri)
    folder = model_folder(version, tracking_uri)
    with progress_bar("generate", unit="images") as progress:
        summary = flow.run(
            folder,
            requests=requests,
            out=out_dir,
            overrides=overrides or [],
            address=address,
            called=(model, version) if version.startswith(("models:", "runs:", "mini:")) else None,
            on_progress=progress,
        )
    show(asdict(summary), title=f"images in {out_dir}", as_json=as_json)
    if summary.failed:
        raise X2IError(f"{summary.failed} of {summary.requests} requests failed; see {out_dir}/errors.jsonl")


@app.command()
def evaluate(
    model: opt.ModelName,
    recipe: Annotated[str | None, typer.Option(help="Recipe to run the model by; default: its own.")] = None,
    baseline: Annotated[str, typer.Option(help="'teacher', or another model.")] = "teacher",
    suite: Annotated[list[str] | None, typer.Option(help="Miniature suite; default: not robustness, audio.")] = None,
    states: Annotated[
        list[str] | None, typer.Option(help="'prompt', 'answer' or 'both'; default: the first two.")
    ] = None,
    cases: Annotated[int, typer.Option(min=1, help="Prompts of each suite, held out and seen.")] = 200,
    prompts: Annotated[str | None, typer.Option(help="Prompts in place of suites: GenEval's, JSONL, text.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images of each prompt of a file.")] = 4,
    layout: Annotated[str | None, typer.Option(help="Lay images out for a scorer: geneval or dpg.")] = None,
    report: Annotated[Path, typer.Option(help="Folder for the report and its images.")] = Path("x2i-evaluation"),
    gate: Annotated[str | None, typer.Option(metavar="max_drop=X", help="Champion, or exit 2 if worse.")] = None,
    tracking_uri: opt.TrackingUri = None,
    overrides: opt.Overrides = None,
    address: opt.Address = None,
    dry_run: opt.DryRun = False,
    as_json: opt.JsonFlag = False,
) -> None:
    """Compare a model with its teacher, or another model, on the same prompts and noise. Run again to continue."""

    from x2i_platform.evaluation.options import parsed_options  # first, as the rest loads torch

    options = parsed_options(
        suites=suite, states=states, cases=cases, prompts=prompts, images=images, layout=layout, gate=gate
    )
    from pipelines import evaluate as flow

    uri = tracking_server(tracking_uri)
    student = flow.student(model, recipe=recipe, overrides=overrides or [], tracking_uri=uri)
    if dry_run:
        show(flow.describe(student, options, out=report), title="would draw", as_json=as_json)
        return
    other = flow.baseline(baseline, tracking_uri=uri)
    with progress_bar("evaluate", unit="images") as progress:
        outcome = flow.run(
            student, out=report, options=options, baseline=other, workers=flow.on_ray(address), on_progress=progress
        )
    published = flow.publish(outcome, model=student.name, tracking_uri=uri)
    if not as_json:
        show_rows(outcome.table(), as_json=False)
    figures = {"figures": outcome.figures()} if as_json else {}
    show({**outcome.summary(), **figures, **published}, title=f"{student.name} against {other.name}", as_json=as_json)
    outcome.require_gate()


@app.command()
def plan(
    recipe: opt.RecipeName,
    captions: Annotated[str | None, typer.Option(help="Captions to count.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Number of captions, where there is no file yet.")] = None,
    column: opt.Column = None,
    header: opt.Header = None,
    delimiter: opt.Delimiter = None,
    quoted: opt.Quoted = None,
    encoding: opt.Encoding = None,
    per_file: opt.PerFile = None,
    gpu: Annotated[str, typer.Option(help="GPU to price: h100, h200, a100, l40s, rtx4090, b200.")] = "h100",
    price: Annotated[float | None, typer.Option(min=0, help="Money for one GPU-hour.")] = None,
    overrides: opt.Overrides = None,
    as_json: opt.JsonFlag = False,
) -> None:
    """What a recipe costs: bytes, FLOPs, GPU-hours, money. Nothing is loaded or written."""
    from pipelines.plan import captions_or_rows, describe
    from x2i_platform.precompute.captions import Reading

    chosen = load_recipe(recipe, overrides)
    reading = Reading(column, header, delimiter, quoted, encoding, per_file)
    source = captions_or_rows(captions, rows=rows, reading=reading)
    note(source.found.left_out() if source else "")
    priced = describe(chosen, captions=source, rows=rows, gpu=gpu, price=price)
    show(priced, title=f"plan of {chosen.name}", as_json=as_json)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("x2i-demo"),
    overrides: opt.Overrides = None,
    as_json: opt.JsonFlag = False,
) -> None:
    """The whole flow on the embedded miniature models: precompute, train, register, evaluate, generate."""
    from pipelines import demo as flow

    summary = flow.run(folder, overrides=overrides or [], bar=progress_bar)
    show(asdict(summary), title="demo", as_json=as_json)


@app.command()
def recipes(as_json: opt.JsonFlag = False) -> None:
    """List the shipped recipes."""
    from pipelines.listings import shipped_recipes

    show_rows(shipped_recipes(wide=as_json), as_json=as_json)


def main() -> None:
    """Entry point: our errors are one line and exit code 2; anything else is a bug and shows its traceback."""
    try:
        opt.refuse_empty(sys.argv[1:])
        code = app(prog_name=NAME, standalone_mode=False)
    except X2IError as error:
        fail(str(error))
        code = 2
    except typer.TyperException as error:  # the words of the command line itself; empty where help was printed instead
        if message := error.format_message():
            context = getattr(error, "ctx", None)
            fail(f"{message.rstrip('.')}; see '{context.command_path if context else NAME} --help'")
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # typer takes a file that ends too early for Ctrl-D
            raise error.__cause__ from None
        code = INTERRUPTED
    if code == INTERRUPTED:
        err.print("interrupted; what is finished is kept: run the same command again to continue", soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
