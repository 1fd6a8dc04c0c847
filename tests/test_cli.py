"""The command line as a user meets it: fast help, one line for a mistake, exit codes, JSON for programs."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import cli
from pipelines import RECIPES
from tests.random_models import RANDOM
from x2i_platform import console
from x2i_platform.mini import captions_path
from x2i_platform.recipes import shipped_names

COMMANDS = ("precompute", "train", "generate", "chat", "evaluate", "serve", "plan", "demo", "recipes", "models")
HEAVY = ("torch", "ray", "mlflow", "transformers", "diffusers", "deepspeed", "numpy", "pyarrow")
CAPTIONS = str(captions_path())


class Ended(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in this process, as its entry point would, in an empty folder and on a screen of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["x2i-platform", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return run


def refused(ended: Ended, *parts: str) -> None:
    """One line on stderr that starts with `error:` and holds these parts, nothing on stdout, exit code 2."""
    assert (ended.code, ended.out) == (2, "")
    lines = [line for line in ended.err.splitlines() if line.strip()]
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def test_help_is_fast_and_loads_no_heavy_library() -> None:
    code = (
        "import sys, cli\nsys.argv = ['x2i-platform', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('loaded', sorted(set({HEAVY}) & set(sys.modules)))"
    )
    seconds = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert printed.splitlines()[-1] == "loaded []"
    assert min(seconds) < 1.0


def test_help_lists_every_command(run: Run) -> None:
    ended = run("--help")
    assert ended.code == 0
    assert all(f" {command} " in ended.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run: Run, command: str) -> None:
    ended = run(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert f"x2i-platform {command}" in ended.out


def test_no_command_shows_the_help_and_is_a_usage_error(run: Run) -> None:
    ended = run()
    assert ended.code == 2
    assert "Commands" in ended.out
    assert ended.err == ""


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nosuch"], "No such command 'nosuch'; see 'x2i-platform --help'"),
        (["precompute"], "Missing argument 'RECIPE'; see 'x2i-platform precompute --help'"),
        (["precompute", "mini", "--store", "s"], "Missing option '--captions'"),
        (["plan", "mini", "--rows", "0"], "Invalid value for '--rows'"),
        (["plan", "mini", "--rows", "many"], "Invalid value for '--rows'"),
        (["recipes", "--nosuch"], "No such option: --nosuch"),
        (["serve", "m", "--port", "99999"], "Invalid value for '--port'"),
        (["plan", "mini"], "plan needs either --captions PATH or --rows N"),
        (["plan", "mini", "--rows", "1", "--captions", "x"], "plan needs either --captions PATH or --rows N"),
        (["plan", "mini", "--rows", "1", "--gpu", "h10"], "unknown GPU 'h10'; did you mean 'h100'?"),
        (["plan", "minni", "--rows", "1"], "unknown recipe 'minni'; did you mean 'mini'?"),
        (["plan", "./none.yaml", "--rows", "1"], "recipe file './none.yaml' doesn't exist"),
        (["plan", "mini", "--rows", "1", "--set", "targets.codek=1"], "unknown key 'codek' in targets; did you mean"),
        (["plan", "mini", "--rows", "1", "--set", "targets.codec"], "--set 'targets.codec': expected key=value"),
        (
            ["plan", "mini", "--rows", "1", "--set", "train.lr=fast"],
            "train.lr = 'fast': should be a valid number",
        ),
        (["plan", "mini", "--rows", "1", "--set", "train.lr=["], "'[' is not a valid YAML value"),
        (["plan", "mini", "--rows", "1", "--set", "name.x=1"], "'name' is a value, not a section"),
        (["plan", "mini", "--captions", "none.txt"], "none.txt"),
        (["plan", "mini", "--captions", ""], "--captions is empty"),
        (["plan", "mini", "--captions="], "--captions is empty"),
        (["precompute", "mini", "--captions", " ", "--store", "s"], "--captions is empty"),
        (["precompute", "mini", "--captions", "c.txt", "--store", ""], "--store is empty"),
        (["train", "", "--store", "s"], "what follows 'train' is empty"),
        (["plan", "mini", "--rows", "1", "--encoding", "utf-16"], "it goes with --captions"),
        (["plan", "mini", "--rows", "1", "--no-header"], "it goes with --captions"),
        (["plan", "mini", "--captions", "c.csv", "--delimiter", "::"], "--delimiter '::': it must be one character"),
        (["plan", "mini", "--captions", "c.csv", "--encoding", "utf-17"], "--encoding 'utf-17' is not known"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run: Run, words: list[str], part: str) -> None:
    refused(run(*words), part)


def test_a_misspelt_key_in_a_recipe_file_names_the_nearest(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: mini\ntargets: {codek: bf16}\n", encoding="utf-8")
    refused(
        run("plan", "mine.yaml", "--rows", "1"), "recipe 'mine': unknown key 'codek' in targets; did you mean 'codec'?"
    )


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "captions.txt"),
        ("", "captions.txt"),
        ("\n \n", "hold no caption"),
        ("a\n" + "b" * 30_000 + "\n", "1 of 2"),
    ],
)
def test_captions_that_cannot_be_used_stop_precompute(run: Run, tmp_path: Path, content: str | None, part: str) -> None:
    if content is not None:
        (tmp_path / "captions.txt").write_text(content, encoding="utf-8")
    refused(run("precompute", "mini", "--captions", "captions.txt", "--store", "store"), part)
    assert not (tmp_path / "store").exists()


def test_a_store_over_its_budget_is_refused_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    words = ("precompute", "mini", "--captions", CAPTIONS, "--store", "store")
    refused(run(*words, "--set", "store.byte_budget=1000000"), "store.byte_budget is 1,000,000", "--limit 9")
    assert not (tmp_path / "store").exists()


def test_a_store_of_another_recipe_is_refused_and_says_what_differs(run: Run, tmp_path: Path) -> None:
    from x2i_platform import fingerprint
    from x2i_platform.features.store import FeatureStore
    from x2i_platform.recipes import load

    other = load("mini", shipped=RECIPES, overrides=["targets.seed=7"])
    FeatureStore.create(str(tmp_path / "store"), fingerprint=fingerprint.features(other))
    ended = run("precompute", "mini", "--captions", CAPTIONS, "--store", "store", "--dry-run")
    refused(ended, "targets.seed", "7")


def test_a_store_that_is_not_there_stops_training(run: Run) -> None:
    refused(run("train", "mini", "--store", "nowhere"), "nowhere")


def test_a_model_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from x2i_platform.registry.connection import connect

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    connect(uri)
    MlflowClient(uri).create_registered_model("mini")
    (tmp_path / "requests.jsonl").write_text('{"prompt": "a"}\n', encoding="utf-8")
    rest = ("--requests", "requests.jsonl", "--out", "out", "--tracking-uri", uri)
    refused(run("generate", "models:/minni@candidate", *rest), "there is no model 'minni'", "mini")
    refused(run("generate", "models:/mini@champion", *rest), "champion")
    refused(run("generate", "models:/mini/3", *rest), "3")
    refused(run("generate", "no folder", *rest), "there is no such folder")
    refused(run("serve", "models:/minni@candidate", "--tracking-uri", uri), "there is no model 'minni'")
    refused(run("models", "--tracking-uri", "./mlruns"), "tracking URI")


def json_line(ended: Ended) -> object:
    """The one line of stdout, parsed; nothing else may stand there."""
    assert ended.code == 0, ended.err
    assert ended.out.endswith("\n")
    assert ended.out.count("\n") == 1
    return json.loads(ended.out)


def test_json_is_one_line_on_stdout(run: Run) -> None:
    listed = json_line(run("recipes", "--json"))
    assert isinstance(listed, list)
    assert [row["recipe"] for row in listed] == shipped_names(RECIPES)
    assert json_line(run("models", "export", "mini:alignnet", "--out", "a.bin", "--json")) == {"file": "a.bin"}
    refused(run("models", "import", "a.bin", "--recipe", RANDOM), "a.bin has hidden_size = 128", "need 64")
    known = json_line(run("models", "--json"))
    assert isinstance(known, dict)
    assert known["registered"] == []
    assert "mini:flux" in {row["model"] for row in known["known"]}
    plan = json_line(run("plan", "mini", "--captions", CAPTIONS, "--json"))
    assert isinstance(plan, dict)
    assert plan["rows"] == len(set(captions_path().read_text(encoding="utf-8").split("\n"))) - 1
    dry = json_line(run("precompute", "mini", "--captions", CAPTIONS, "--store", "s", "--dry-run", "--json"))
    assert isinstance(dry, dict)
    assert dry["captions"] == plan["rows"]
    assert dry["plan"]["total_bytes"] == plan["total_bytes"]


def test_a_registered_model_is_listed_shown_promoted_and_rolled_back(run: Run, tmp_path: Path) -> None:
    from tests.registered import registered
    from x2i_platform.registry.evaluations import record_gate

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for number in (1, 2):
        registered(uri, tmp_path / str(number), value=number)
    refused(run("models", "promote", "models:/mini/1"), "has passed no gate; run `x2i-platform evaluate models:/mini/1")
    record_gate("models:/mini/1", holds=True, reason="within", tracking_uri=uri)
    moved = json_line(run("models", "promote", "models:/mini/2", "--force", "--json"))
    names = {"alias": "models:/mini@champion", "model": "models:/mini/2", "previous": "models:/mini/1"}
    assert moved == {**names, "forced": True}
    listed = json_line(run("models", "list", "--json"))
    assert isinstance(listed, list)
    [row] = listed
    assert (row["name"], row["versions"], row["gate"]) == ("mini", 2, {"candidate": "none", "champion": "none"})
    shown = json_line(run("models", "show", "mini", "--json"))
    assert isinstance(shown, dict)
    assert (shown["model"], shown["forced"], shown["card"]) == ("models:/mini/2", "champion", "# A model\n")
    assert "models:/mini/1" in run("models", "rollback", "mini").out
    refused(run("models", "rollback", "mini"), "no earlier 'champion'")
    assert "A model" in run("models", "show", "mini", "--card").out
    table = run("models", "show", "models:/mini@champion").out
    assert all(part in table for part in ("models:/mini/1", "champion", "passed", "unknown", "abc"))
    assert max(map(len, table.splitlines())) <= 80


def test_a_folder_and_a_miniature_can_be_shown(run: Run) -> None:
    shown = json_line(run("models", "show", "mini:alignnet", "--json"))
    assert isinstance(shown, dict)
    assert (shown["teacher"]["model"], shown["lineage"]["run"]) == ("mini:flux", "unknown")
    assert json_line(run("models", "list", "--json")) == []
    refused(run("models", "show", "mini:alignnet", "--card"), "has no model card")
    refused(run("models", "show", "./none"), "there is no such folder")
    refused(run("models", "show", "none"), "there is no MLflow database")


CAPTION_FILES = {
    "semicolon.csv": ("a cup;1\na ball;2\n", ["--no-header", "--delimiter", ";", "--column", "1"]),
    "pandas.tsv": ('id\ttext\n1\t"a ""red"" cup"\n2\t"a\nball"\n', ["--quoted"]),
    "literal.tsv": ('id\ttext\n1\t"a ""red"" cup"\n2\ta ball\n', ["--literal"]),
    "names.csv": ("1,2\na cup,x\na ball,y\n", ["--header", "--column", "1"]),
    "tab.csv": ("text\tid\na cup, red\t1\na ball\t2\n", ["--delimiter", "tab"]),
    "wide.txt": ("a cup\na ball\n", ["--encoding", "utf-16"]),
    "nested.ndjson": ('{"a": {"b": ["a cup", "a ball"]}}\n', ["--column", "a.b"]),
    "whole.txt": ("a cup\nand a ball\n", ["--per-file"]),
    "lines.caption": ("a cup\n\na ball\n", ["--per-line"]),
}


@pytest.mark.parametrize("name", CAPTION_FILES)
def test_every_option_of_reading_captions_works(run: Run, tmp_path: Path, name: str) -> None:
    content, options = CAPTION_FILES[name]
    (tmp_path / name).write_text(content, encoding="utf-16" if name == "wide.txt" else "utf-8")
    plan = json_line(run("plan", "mini", "--captions", name, *options, "--json"))
    dry = json_line(run("precompute", "mini", "--captions", name, *options, "--store", "s", "--dry-run", "--json"))
    assert isinstance(plan, dict)
    assert isinstance(dry, dict)
    counts = {key: dry[key] for key in ("lines", "captions", "duplicates", "quarantined", "not_read")}
    rows = 1 if name == "whole.txt" else 2
    assert counts == {"lines": rows, "captions": rows, "duplicates": 0, "quarantined": 0, "not_read": {}}
    assert (plan["rows"], plan["not_read"]) == (rows, {})


def test_files_that_are_not_read_are_one_line_and_a_count(run: Run, tmp_path: Path) -> None:
    for name in ("set/a.txt", "set/b.png", "set/c.png", "set/d.md", "set/.hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a cup\n", encoding="utf-8")
    for words in (["plan", "mini"], ["precompute", "mini", "--store", "s", "--dry-run"]):
        ended = run(*words, "--captions", "set", "--json")
        assert ended.err == "3 files not read: .md (1), .png (2)\n"
        found = json_line(ended)
        assert isinstance(found, dict)
        assert found["not_read"] == {".md": 1, ".png": 2}


def test_captions_that_are_all_refused_say_why(run: Run, tmp_path: Path) -> None:
    lines = [*['{"caption_en": "a cup", "caption_zh": "x"}'] * 3, "{cut", '{"caption": 1}', '{"caption": null}']
    (tmp_path / "c.jsonl").write_text("\n".join(lines), encoding="utf-8")
    words = ("precompute", "mini", "--captions", "c.jsonl", "--store", "s", "--dry-run")
    ended = run(*words)
    reason = "c.jsonl:1: no key caption or prompt or text among caption_en, caption_zh; name it by --column"
    refused(ended, "hold no caption in 6 lines: ", reason, "c.jsonl:4: not JSON", "c.jsonl:5: caption is a number")
    assert "null" not in ended.err
    assert run(*words, "--column", "caption_en", "--set", "store.max_quarantine_share=0.5").code == 0


def test_json_is_not_decorated(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"text": ":smile: [bold]x[/] 圆 \\ " + "long " * 100, "none": None}
    console.show(result, title="t", as_json=True)
    assert json.loads(capsys.readouterr().out) == result


def test_tables_of_80_columns_cut_no_name(run: Run) -> None:
    listed, models = run("recipes"), run("models")
    assert listed.code == models.code == 0
    assert "…" not in listed.out + models.out
    assert max(map(len, (listed.out + models.out).splitlines())) <= 80
    assert all(f" {name} " in listed.out for name in shipped_names(RECIPES))
    assert " black-forest-labs/FLUX.1-schnell " in models.out


def test_a_long_word_in_a_table_is_folded_and_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console.show({"folder": "/tmp/" + "x" * 100}, title="t", as_json=False)
    assert capsys.readouterr().out.count("x") == 100
    console.show_rows([{"model": "m", "source": "s3://" + "y" * 100}], as_json=False)
    assert capsys.readouterr().out.count("y") == 100


def test_an_error_is_one_line_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    console.fail("no [bold] model\n:smile: " + "word " * 50)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no [bold] model :smile: word word")


def test_a_bug_shows_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("bug")

    monkeypatch.setattr("pipelines.listings.shipped_recipes", broken)
    with pytest.raises(KeyError, match="bug"):
        run("recipes")


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    pipe = tmp_path / "captions.txt"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "plan", "mini", "--captions", str(pipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    writer = open_when_read(pipe, process)
    try:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        os.close(writer)
        process.kill()
    # CPython ends itself by SIGINT, which a shell reports as 130 too, if the interrupt met it inside exec("...").
    in_a_shell = 128 - process.returncode if process.returncode < 0 else process.returncode
    assert (in_a_shell, out) == (130, "")
    [line] = err.splitlines()
    assert line.startswith("interrupted; ")


def open_when_read(pipe: Path, process: subprocess.Popen[str]) -> int:
    """The writing end of a pipe, once the process stands in the reading of it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.05)
    process.kill()
    pytest.fail(f"the captions were never opened: {process.communicate()[1]}")
