"""Make images from Python: of an English prompt, a Japanese one, and a picture.

python examples/generate.py            # saves them in a new temporary folder
python examples/generate.py FOLDER
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.mini.drawing import picture
from x2i_platform.mini.judge import judge
from x2i_platform.mini.languages import caption
from x2i_platform.mini.scenes import Scene, Thing
from x2i_platform.models.prompts import Prompt
from x2i_platform.models.weights import locate

SCENE = Scene(Thing("circle", "red"), relation="left of", second=Thing("square", "blue"))
SEED = 7


def main(folder: Path) -> None:
    # The AlignNet that ships. For one of yours give the folder that
    # `x2i_platform.registry.models.resolve("models:/my-alignnet@candidate", tracking_uri=...)` returns.
    generator = Generator.load(locate("mini:alignnet"))
    # Steps, guidance, size; `model_copy(update={"num_inference_steps": 4})` changes some for one request.
    settings = generator.recipe.generate

    prompts: dict[str, str | Prompt] = {
        # Text is a caption. It goes through the template of the recipe.
        "english": caption(SCENE, seed=SEED),
        "japanese": caption(SCENE, language="japanese", seed=SEED),
        # A Prompt is the whole turn: any order of text, PIL images, videos and sound.
        "picture": Prompt.of(picture(SCENE, seed=SEED).draw()),
    }
    made = generator.generate([ImageRequest(prompt, SEED, settings) for prompt in prompts.values()])

    for (name, prompt), (image, _) in zip(prompts.items(), made, strict=True):
        image.save(folder / f"{name}.png")
        # The miniature world has an exact judge, so we know whether an image shows what was asked for.
        verdict = judge(image, SCENE)
        text = prompt.text if isinstance(prompt, Prompt) else prompt
        print(f"{folder / name}.png: {text}: {'right' if verdict.right else verdict.reason}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="x2i-images-")))
