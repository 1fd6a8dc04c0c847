"""A dialogue with a model: each turn of the user makes an image, and the MLLM's answers are context for the next."""

from __future__ import annotations

import mimetypes
import re

from x2i_platform.config import GenerateConfig
from x2i_platform.generation.generator import Generated, Generator, ImageRequest
from x2i_platform.models.prompts import Part, Prompt, Turn

FILE = re.compile(r'(?<!\S)@(?:"(?P<quoted>[^"]+)"|(?P<plain>\S+))')


class Dialogue:
    """The turns so far, with the generator that continues them.

    Without an answer a turn would leave nothing to refer to. So states of prompts are replaced by `both`, those of the
    prompt and the answer, as X2I does in dialogues.
    """

    def __init__(self, generator: Generator, *, settings: GenerateConfig | None = None) -> None:
        settings = settings or generator.recipe.generate
        self.settings = settings if settings.states != "prompt" else settings.model_copy(update={"states": "both"})
        self.turns: tuple[Turn, ...] = ()
        self._generator = generator

    def say(self, *parts: Part, seed: int) -> Generated:
        """Make the image of the user's next turn, and keep the turn and its answer.

        Raises what `Generator.generate` raises, PromptTooLong once the turns are too many; the dialogue is then as
        before.
        """
        prompt = Prompt((*self.turns, Turn("user", parts)))
        [made] = self._generator.generate([ImageRequest(prompt, seed, self.settings)])
        assert made.answer is not None
        self.turns = (*prompt.turns, Turn("assistant", (made.answer,)))
        return made

    def forget(self) -> None:
        """Begin anew."""
        self.turns = ()


def typed_parts(line: str) -> list[dict[str, str]]:
    """The parts of a typed line, as `content` reads them: `make @cat.png blue`, or `@"my cat.png"` with spaces.

    What follows an `@` is a file if its ending is that of a picture, a video or a sound.
    """
    parts: list[dict[str, str]] = []
    place = 0
    for found in FILE.finditer(line):
        path = found["quoted"] or found["plain"]
        kind = (mimetypes.guess_type(path)[0] or "").partition("/")[0]
        if kind in ("image", "video", "audio"):
            parts += [{"type": "text", "text": line[place : found.start()]}, {"type": kind, kind: path}]
            place = found.end()
    parts.append({"type": "text", "text": line[place:]})
    return [part for part in parts if part["type"] != "text" or part["text"].strip()]
