"""The model folder, the product of this platform. Only this module reads and writes its plain files.

    alignnet.safetensors   AlignNet's weights
    config.json            its shape: the recipe's section `alignnet`, and the sizes that follow from the two models
    recipe.json            the recipe, which names the MLLM and the DiT and sets how to generate
    README.md              the model card, in a registered version

It imports no torch until weights are needed, because the registry only needs the names.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from x2i_platform.config import AlignNetConfig, Recipe
from x2i_platform.errors import WeightsError
from x2i_platform.files import publish, published

if TYPE_CHECKING:
    import torch

    from x2i_platform.models.alignnet import AlignNet

WEIGHTS_FILE = "alignnet.safetensors"
CONFIG_FILE = "config.json"
RECIPE_FILE = "recipe.json"
CARD_FILE = "README.md"


def save_model(alignnet: AlignNet, folder: Path, *, recipe: Recipe) -> None:
    """Write AlignNet and its recipe into a folder."""
    save_alignnet(alignnet, folder)
    write_recipe(recipe, folder)


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write only the recipe."""
    (folder / RECIPE_FILE).write_text(recipe.model_dump_json(indent=1), encoding="utf-8")


def read_recipe(folder: Path) -> Recipe:
    """Read the recipe that a model folder was trained with. Raises WeightsError if it is missing or not a recipe."""
    path = folder / RECIPE_FILE
    try:
        return Recipe.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"model folder '{folder}' has no {RECIPE_FILE}, which names its MLLM and its DiT") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"'{path}' can't be read: {error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise WeightsError(f"'{path}' is not a recipe: {where}: {problem['msg']}") from None


def save_alignnet(alignnet: AlignNet, folder: str | Path) -> Path:
    """Write `alignnet.safetensors` and `config.json` into a folder, and return the folder.

    The config is removed first and written last, so a folder whose writing was cut short has none and is refused.
    """
    from safetensors.torch import save_file

    from x2i_platform.models.released import portable

    folder = Path(folder)
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    with published(folder / WEIGHTS_FILE, durable=True) as scratch:
        save_file(portable(alignnet), scratch)
    text = json.dumps({"alignnet": alignnet.config.model_dump(), "dims": asdict(alignnet.dims)}, indent=2) + "\n"
    publish(folder / CONFIG_FILE, text.encode(), durable=True)
    return folder


def load_alignnet(folder: str | Path, *, device: str | torch.device = "cpu") -> AlignNet:
    """Load what `save_alignnet` wrote, in evaluation mode. Raises WeightsError that names the wrong file."""
    from x2i_platform.models.alignnet import AlignNetDims
    from x2i_platform.models.released import from_state, read_weights, tensors_of

    folder = Path(folder)
    config_path = folder / CONFIG_FILE
    try:
        document = json.loads(config_path.read_text(encoding="utf-8"))
        config = AlignNetConfig.model_validate(document["alignnet"])
        dims = TypeAdapter(AlignNetDims).validate_python(document["dims"])
    except OSError as error:
        raise WeightsError(f"no AlignNet in {folder}: {CONFIG_FILE} can't be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
        raise WeightsError(f"{config_path} does not describe an AlignNet: {reason}") from error
    weights_path = folder / WEIGHTS_FILE
    state = tensors_of(read_weights(weights_path), path=weights_path)
    return from_state(config, dims=dims, state=state, source=str(weights_path)).to(device)
