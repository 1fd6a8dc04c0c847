"""What fields of requests can't be, as JSON, and bodies that are right but for them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from tests.media import hostile

GENERATIONS, EDITS, JOBS = "/v1/images/generations", "/v1/images/edits", "/v1/jobs"
FILES, BATCHES = "/v1/files", "/v1/batches"
PICTURE = hostile.picture()
URL = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"

NO_NUMBER = ('"x"', '""', "[]", "{}", "NaN", "Infinity", "-Infinity", "1e999", "-1", "1" + "0" * 5000, r'"\ud800"')
NO_INTEGER = (*NO_NUMBER, "1.5", "1e-3", "-9223372036854775809", "99999999999999999999")
NO_TEXT = ("5", "1.5", "true", "[]", "{}", '["a"]', "NaN", r'"\ud800"', r'"a\udfff"')
NO_FLAG = ('"perhaps"', "2", "-1", "[]", "{}", "1.5", r'"\ud800"')
NO_CHOICE = ('"gif "', '""', "5", "[]", "{}", "true", r'"\ud800"', '"' + "x" * 5000 + '"')
NO_SIZE = (
    *('"17x64"', '"64"', '"64x"', '"x64"', '"0x0"', '"-64x64"', '"64x4096"', '"99999x16"', '"1e3x64"', '"64X64"'),
    *('"64x64 "', r'"64x64\n"', '"٦٤x٦٤"', '"64×64"', '""', '"64x64x64"', '"1' + "0" * 4000 + 'x64"', *NO_TEXT[:6]),
)
NO_PROMPT = ("5", "true", "{}", "[]", '""', r'" \n\t"', r'"\ud800"', r'"\udc00a"', "NaN", '"' + "a" * 20_001 + '"')
WRONG: dict[str, Sequence[str]] = {
    # Field: JSON that its value can't be. None is `null`, which is as if the field were left out.
    "prompt": (*NO_PROMPT, "[5]", "[null]", '["a"]', '[{"type": "text"}]', '[{"type": "text", "text": ""}]'),
    "n": (*NO_INTEGER, "0", "11", "1000000"),
    "size": NO_SIZE,
    "seed": NO_INTEGER,
    "num_inference_steps": (*NO_INTEGER, "0", "201"),
    "guidance_scale": (*NO_NUMBER, "101"),
    "response_format": (*NO_CHOICE, '"url"'),
    "output_format": (*NO_CHOICE, '"gif"', '"svg"', '"PNG"'),
    "quality": (*NO_CHOICE, '"hd"'),
    "background": (*NO_CHOICE, '"transparent"'),
    "moderation": (*NO_CHOICE, '"low"'),
    "output_compression": (*NO_INTEGER, "50", "101"),
    "stream": NO_FLAG,
    "partial_images": (*NO_INTEGER, "11"),
    "model": NO_TEXT,
    "user": NO_TEXT,
    "states": (*NO_CHOICE, '"Prompt"'),
    "answer": ("5", '"x"', "[]", "true", '{"x": 1}', *(f'{{"temperature": {value}}}' for value in NO_NUMBER)),
    "messages": ("[]", '[{"role": "user", "content": "a"}]', "5", '"a"', "{}"),  # beside a prompt
}
NO_MESSAGES = (
    *(
        '[{"role": "user"}]',
        '[{"role": "user", "content": null}]',
        '[{"role": "user", "content": 5}]',
        "[[]]",
        "[null]",
    ),
    *('[{"role": "god", "content": "a"}]', '[{"role": "user", "content": ""}]', '[{"role": "user", "content": []}]'),
    *('[{"role": "assistant", "content": "a"}]', '[{"role": ["user"], "content": "a"}]', r'[{"role": "\ud800"}]'),
    *('[{"role": "user", "content": "a", "\\ud800": 1}]', '[{"role": "user", "content": "a"}, 5]', '[{"role": {}}]'),
    json.dumps([{"role": "user", "content": "a"}] * 65),
    json.dumps([{"role": "user", "content": [{"type": "text", "text": "a"}] * 65}]),
)
NO_EDIT_IMAGES = (
    *("5", "[]", "{}", '"x"', "[5]", "[null]", "[{}]", '[{"image_url": 5}]', '[{"image_url": ""}]', "[[]]"),
    *('[{"image_url": "https://example.com/cat.png"}]', '[{"image_url": "/etc/passwd"}]', '[{"file_id": "file-1"}]'),
    *('[{"image_url": "data:image/png;base64,%%%"}]', r'[{"image_url": "\ud800"}]'),
    json.dumps([{"image_url": URL}] * 17),
)
NO_BATCH: dict[str, Sequence[str]] = {
    "input_file_id": (*NO_TEXT, '""', '"file-nowhere"', '"../../etc/passwd"', '"' + "x" * 5000 + '"'),
    "endpoint": (*NO_TEXT, '"/v1/chat/completions"', '""', '"/v1/images/generations/../x"'),
    "completion_window": (*NO_TEXT, '"1s"', '"forever"'),
    "metadata": ("5", '"x"', "[]", '{"a": {}}', '{"a": 5}'),
}
NO_JSON = (
    *(
        "{",
        "}",
        "[",
        '{"prompt"',
        '{"prompt":',
        '{"prompt": "a"',
        '{"prompt": "a",}',
        "{'prompt': 'a'}",
        "{prompt: 'a'}",
    ),
    *(
        '{"prompt": "a"} x',
        '{"prompt": "a"}{"prompt": "a"}',
        '// a\n{"prompt": "a"}',
        '{"prompt": "a\nb"}',
        "nul",
        "+1",
    ),
    *('{"prompt": "\\x"}', '{"prompt": "\\u12"}', '{"n": 01}', '{"n": .5}', '{"n": 0x1}', "\ufeff", "\x00", " ", ""),
    *("prompt=a&n=1", "<prompt>a</prompt>", "%PDF-1.4", '{"prompt": "a"} \x00', "undefined", "a" * 100_000),
)
NO_OBJECT = ("null", "true", "5", "-0.0", '"prompt"', "[]", '[{"prompt": "a"}]', "1e400", "NaN")
NO_TYPES = (
    *("text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data", "image/png", "x"),
    *("application/octet-stream", "application/jsonp", "application/json5", "; charset=utf-8", "text/json\tx"),
)
BASES = {
    # Path: a body that is right.
    GENERATIONS: {"prompt": '"a cat"'},
    JOBS: {"prompt": '"a cat"'},
    EDITS: {"prompt": '"a cat"', "images": json.dumps([{"image_url": URL}])},
    BATCHES: {"input_file_id": '"file-1"', "endpoint": f'"{GENERATIONS}"', "completion_window": '"24h"'},
}
FIELDS: dict[str, dict[str, Sequence[str]]] = {
    GENERATIONS: WRONG,
    JOBS: {**WRONG, "stream": (*NO_FLAG, "true")},
    EDITS: {
        **{name: values for name, values in WRONG.items() if name not in ("messages", "prompt")},
        "prompt": NO_PROMPT,
        "images": NO_EDIT_IMAGES,
    },
    BATCHES: NO_BATCH,
}
