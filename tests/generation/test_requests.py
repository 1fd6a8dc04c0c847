"""Lines of a request file: options over defaults, bad lines one by one, names that hold what decides the image."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from x2i_platform.config import GenerateConfig
from x2i_platform.errors import InputError
from x2i_platform.generation.requests import ParsedLine, read_requests

DEFAULTS = GenerateConfig(num_inference_steps=4, guidance=3.5, width=64, height=32)


def read(tmp_path: Path, *lines: str | bytes) -> list[ParsedLine]:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n")
    return list(read_requests(str(path)))


def name(line: ParsedLine, *, settings: GenerateConfig = DEFAULTS, model: str = "m") -> str:
    assert line.request is not None
    return line.file_name(settings=line.request.settings(settings), model_digest=model)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "expected a JSON object with a prompt, not list"),
        ("null", "not NoneType"),
        ("a red circle", "not JSON in UTF-8: Expecting value"),
        ('{"prompt": "a"', "not JSON in UTF-8"),
        (b'{"prompt": "\xff"}', "not JSON in UTF-8: 'utf-8' codec can't decode byte 0xff"),
        ("[" * 100_000, "not JSON in UTF-8: maximum recursion depth"),
        ("{}", "prompt is missing"),
        ('{"prompt": ""}', "prompt: String should have at least 1 character"),
        ('{"prompt": " \\t"}', "prompt is blank"),
        ('{"prompt": 7}', "prompt: Input should be a valid string, not 7"),
        ('{"prompt": "\\ud800"}', "prompt: Input should be a valid string"),
        (json.dumps({"prompt": "a" * 20_001}), "at most 20000 characters, not 'aaa"),
        ('{"prompt": "a", "seed": -1}', "seed: Input should be greater than or equal to 0, not -1"),
        ('{"prompt": "a", "seed": 9223372036854775808}', "seed: Input should be less than 9223372036854775808"),
        ('{"prompt": "a", "seed": 1.5}', "seed: Input should be a valid integer"),
        ('{"prompt": "a", "width": 40}', "width: Input should be a multiple of 16, not 40"),
        ('{"prompt": "a", "height": 0}', "height: Input should be greater than or equal to 16, not 0"),
        ('{"prompt": "a", "num_inference_steps": 0}', "num_inference_steps: Input should be greater"),
        ('{"prompt": "a", "guidance": 1e999}', "guidance: Input should be a finite number"),
        ('{"prompt": "a", "guidance": NaN}', "NaN is no JSON number"),
        ('{"prompt": "a", "tag": Infinity}', "Infinity is no JSON number"),
        ('{"prompt": "a", "id": {}}', "id: Input should be a valid string, not {}"),
        ('{"prompt": "a", "sede": 3}', "unknown key 'sede'; did you mean 'seed'?"),
        ('{"prompt": "a", "Seed": 3}', "unknown key 'Seed'; did you mean 'seed'?"),
        ('{"prompt": "a", "num_inference_step": 3}', "did you mean 'num_inference_steps'?"),
        ('{"prompt": "a", "guidance_scale": 3}', "unknown key 'guidance_scale'; did you mean 'guidance'?"),
        ('{"prompt": "a", "steps": 3}', "unknown key 'steps'; did you mean 'num_inference_steps'?"),
        ('{"prompt": "a", "size": "64x64"}', "did you mean 'width' and 'height'?"),
        ('{"prompt": "a", "aspect_ratio": "16:9"}', "did you mean 'width' and 'height'?"),
        ('{"prompt": "a", "cfg_scale": 7}', "unknown key 'cfg_scale'; did you mean 'guidance'?"),
        ('{"prompt": "a", "random_seed": 7}', "unknown key 'random_seed'; did you mean 'seed'?"),
        ('{"prompt": "a", "n": 4}', "'n' is not offered: a line makes one image; write a line, with a seed, for each"),
        ('{"prompt": "a", "num_images_per_prompt": 4}', "'num_images_per_prompt' is not offered: a line makes one"),
        ('{"prompt": "a", "negative_prompt": "blurry"}', "'negative_prompt' is not offered: FLUX.1 is guided without"),
        ('{"prompt": "a", "quality": "hd"}', "'quality' is not offered"),
        ('{"prompt": "a", "negativePrompt": "b"}', "'negativePrompt' is not offered"),
        ('{"prompt": "a", "Negative-Prompt": "b"}', "'Negative-Prompt' is not offered"),
        ('{"prompt": "a", "n": true}', "'n' is not offered"),
        ('{"prompt": "a", "lora": true}', "'lora' is not offered"),
        ('{"prompt": "a", "model": "other"}', "'model' is not offered: the command names the model"),
        ('{"prompt": "a", "cfgScale": 7}', "unknown key 'cfgScale'; did you mean 'guidance'?"),
        ('{"prompt": "a", "widht": 64}', "unknown key 'widht'; did you mean 'width'?"),
        ('{"prompt": "a", "\\ud800": 1}', "the line: "),
    ],
)
def test_a_bad_line_says_what_is_wrong_and_spares_its_neighbours(tmp_path: Path, line: str, reason: str) -> None:
    before, bad, after = read(tmp_path, '{"prompt": "one"}', line, '{"prompt": "two"}')
    assert bad.request is None
    assert reason in str(bad.error)
    assert "\n" not in str(bad.error)
    assert (before.line, bad.line, after.line) == (1, 2, 3)
    assert before.request
    assert after.request


def test_empty_lines_count_but_are_no_requests(tmp_path: Path) -> None:
    assert [line.line for line in read(tmp_path, "", '{"prompt": "a"}', "  ", '{"prompt": "b"}')] == [2, 4]


def test_a_line_sets_what_it_names_and_takes_the_rest_from_the_model(tmp_path: Path) -> None:
    text = '{"prompt": "a", "width": 128, "guidance": 0, "num_inference_steps": 9}'
    [line] = read(tmp_path, text)
    assert line.request
    expected = GenerateConfig(num_inference_steps=9, guidance=0, width=128, height=32)
    assert line.request.settings(DEFAULTS) == expected


def test_other_keys_are_carried_along(tmp_path: Path) -> None:
    [line] = read(tmp_path, '{"prompt": "a", "tag": "two_object", "include": [{"class": "bench", "count": 1}]}')
    assert line.request
    assert line.request.model_extra == {"tag": "two_object", "include": [{"class": "bench", "count": 1}]}


def test_a_seed_is_the_one_asked_for_or_the_line_number(tmp_path: Path) -> None:
    lines = read(tmp_path, '{"prompt": "a"}', '{"prompt": "a", "seed": 0}', '{"prompt": "a"}')
    assert [line.seed for line in lines] == [1, 0, 3]


def test_a_file_name_changes_with_all_that_decides_the_image_and_with_nothing_else(tmp_path: Path) -> None:
    [plain] = read(tmp_path, '{"prompt": "a"}')
    [again] = read(tmp_path, '{"id": 7, "prompt": "a", "seed": 1, "width": 64, "tag": "x"}')
    text = '["a",1,{"guidance":3.5,"height":32,"num_inference_steps":4,"states":"prompt","width":64},"m"]'
    assert name(again) == name(plain) == f"000001-{hashlib.sha256(text.encode()).hexdigest()[:12]}.png"
    others = [read(tmp_path, line)[0] for line in ('{"prompt": "b"}', '{"prompt": "a", "seed": 2}')]
    others_names = {name(line) for line in others}
    others_names.add(name(plain, settings=DEFAULTS.model_copy(update={"guidance": 3.0})))
    others_names.add(name(plain, settings=DEFAULTS.model_copy(update={"states": "answer"})))
    others_names.add(name(plain, model="n"))
    assert len(others_names | {name(plain)}) == 6


def test_compressed_files_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl.gz"
    path.write_bytes(gzip.compress('\ufeff{"prompt": "ein roter Kreis, größer"}\r\n'.encode()))
    [line] = read_requests(str(path))
    assert line.request
    assert line.request.prompt == "ein roter Kreis, größer"


def test_a_file_without_lines_or_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"requests '.*' hold no line"):
        read(tmp_path, "", " ")
    with pytest.raises(InputError, match=r"requests '.*nowhere\.jsonl' can't be read"):
        list(read_requests(str(tmp_path / "nowhere.jsonl")))
    with pytest.raises(InputError, match=r"can't be read"):
        list(read_requests("nosuchscheme://x/requests.jsonl"))


def test_keys_that_only_look_like_options_are_carried(tmp_path: Path) -> None:
    keys = ("uid", "idx", "prompt_id", "prompt_en", "prompts", "status", "stats", "weight", "with", "speed", "tag")
    [line] = read(tmp_path, json.dumps({"prompt": "a", **dict.fromkeys(keys, 1)}))
    assert line.error is None
    assert line.request is not None
    assert set(line.request.model_extra or {}) == set(keys)


def test_other_tools_options_that_ask_for_nothing_are_taken(tmp_path: Path) -> None:
    harmless = {"n": 1, "negative_prompt": "", "num_images_per_prompt": None, "quality": "auto", "output_format": "png"}
    [line] = read(tmp_path, json.dumps({"prompt": "a", **harmless}))
    assert line.error is None
