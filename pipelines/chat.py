"""A dialogue in the terminal: each line makes an image in a folder, and the turns before it are its context.

line ──► parts ──► Dialogue (MLLM answers) ──► turn-0001.png, dialogue.jsonl
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from x2i_platform import fingerprint
from x2i_platform.digests import digest
from x2i_platform.errors import StoreError, raising
from x2i_platform.files import publish
from x2i_platform.generation.content import identity_of, parse_prompt, words_of
from x2i_platform.generation.dialogue import Dialogue, typed_parts
from x2i_platform.generation.generator import Generator
from x2i_platform.generation.loading import load_prompt
from x2i_platform.generation.provenance import png_bytes
from x2i_platform.models.devices import choose_device
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.models.weights import identity
from x2i_platform.recipes import override

DIALOGUE_FILE = "dialogue.jsonl"
IMAGE = re.compile(r"turn-(\d+)\.png")


@dataclass(frozen=True)
class Answered:
    """A turn that is done."""

    turn: int
    prompt: str
    answer: str
    file: str
    seed: int
    seconds: float


class Chat:
    """The loaded model, its dialogue, and the folder that images go to. Images of earlier dialogues there are kept."""

    def __init__(self, folder: Path, *, out: Path, overrides: Sequence[str] = (), seed: int = 1) -> None:
        """Load a model folder. Raises WeightsError, ConfigError, or StoreError if the folder can't be made."""
        recipe = override(read_recipe(folder), overrides)
        with raising(StoreError, f"folder '{out}' can't be made", (OSError,)):
            out.mkdir(parents=True, exist_ok=True)
        self.out, self.seed = out, seed
        device = choose_device(recipe.run.generate.num_gpus)
        self.dialogue = Dialogue(Generator.load(folder, recipe=recipe, device=device))
        self._media = recipe.media
        self._model = digest([identity(str(folder.absolute())), fingerprint.generation(recipe)])

    def say(self, line: str) -> Answered:
        """Make the image of a typed line. Raises InputError for what the model can't take; the dialogue then stays."""
        began = time.monotonic()
        messages = parse_prompt(typed_parts(line), folder=Path.cwd())
        media = [one for one in identity_of(messages) if one[0] != "text"]
        parts = load_prompt(messages, media=self._media).turns[0].parts
        made = self.dialogue.say(*parts, seed=self.seed)
        assert made.answer is not None
        taken = [int(found[1]) for path in self.out.iterdir() if (found := IMAGE.fullmatch(path.name))]
        turn = 1 + max(taken, default=0)
        settings = self.dialogue.settings.model_dump(mode="json")
        made_by = {"model": self._model, **({"media": media} if media else {})}
        how = {"seed": self.seed, **made_by, **settings}
        name = f"turn-{turn:04d}.png"
        answered = Answered(turn, words_of(messages), made.answer, name, self.seed, round(time.monotonic() - began, 2))
        with raising(StoreError, f"can't write into '{self.out}'", (OSError,)):
            publish(self.out / name, png_bytes(made, prompt=answered.prompt, how=how))
            with (self.out / DIALOGUE_FILE).open("a", encoding="utf-8") as log:
                log.write(json.dumps({**asdict(answered), **made_by, "settings": settings}, ensure_ascii=False) + "\n")
        return answered
