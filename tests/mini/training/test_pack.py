"""What is packed is what was trained, up to half precision, and the platform's own loaders read it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from transformers import Qwen2Tokenizer

from pipelines import RECIPES
from x2i_platform.config import Recipe
from x2i_platform.mini.checkpoints import MANIFEST, trained_folder
from x2i_platform.mini.training import dit, omni, pack, text, trainer, vae
from x2i_platform.models.image_pipeline import ImagePipeline
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.recipes import load

CAPTIONS = ["a red circle", "two small green stars", "a blue heart above a black cross"]
LEARNT_ANEW = {Path("flux/vae/config.json")}
"""It holds the mean and spread of trained latents."""
SETTINGS = load("mini", shipped=RECIPES, overrides=["generate.num_inference_steps=2"]).generate


def recipe(folder: Path) -> Recipe:
    models = [f"teacher.model={folder / 'flux'}", f"mllm.model={folder / 'qwen2.5-vl'}"]
    return load("mini", shipped=RECIPES, overrides=models)


def test_a_packed_teacher_gives_what_its_parts_gave(tmp_path: Path) -> None:
    parts, autoencoder = dit.TeacherParts().eval().requires_grad_(False), vae.untrained()
    with torch.no_grad():
        torch.nn.init.normal_(parts.dit.proj_out.weight, std=0.1)  # untrained, the DiT would put out nothing
    embeds, pooled = parts.encode(CAPTIONS)
    latents = torch.randn(3, 16, dit.LATENT_DIM)
    velocity = dit.predict(parts.dit, latents, sigma_B=torch.full((3,), 0.5), embeds=embeds, pooled=pooled)
    drawn = unpacked(autoencoder, parts).generate(embeds, pooled_BP=pooled, seeds=[0, 1, 2], settings=SETTINGS)
    pack.write_flux(tmp_path, autoencoder=autoencoder, parts=parts)
    config = recipe(tmp_path).teacher
    found = TextEncoders.load(config).encode(CAPTIONS)
    torch.testing.assert_close(found.prompt_embeds_BTE, embeds, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(found.pooled_BP, pooled, rtol=1e-2, atol=1e-2)
    pipeline = ImagePipeline.load(config)
    again = pipeline.teacher(config).forward(
        embeds, pooled_BP=pooled, latents_BNC=latents, sigma_B=torch.full((3,), 0.5)
    )
    torch.testing.assert_close(again, velocity, rtol=2e-2, atol=2e-2)
    images = pipeline.generate(embeds, pooled_BP=pooled, seeds=[0, 1, 2], settings=SETTINGS)
    for image, before in zip(images, drawn, strict=True):
        assert np.asarray(before).std() > 5
        np.testing.assert_allclose(np.asarray(image, dtype=float), np.asarray(before, dtype=float), atol=3)


def unpacked(autoencoder: AutoencoderKL, parts: dit.TeacherParts) -> ImagePipeline:
    """What is to be packed, in a pipeline of full precision."""
    nothing = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=pack.TIME_SHIFT)
    return ImagePipeline(FluxPipeline(scheduler=scheduler, vae=autoencoder, transformer=parts.dit, **nothing))


def test_a_packed_mllm_gives_what_it_gave(mllm: Any, words: Qwen2Tokenizer, tmp_path: Path) -> None:
    ids = torch.tensor([words("a red circle", add_special_tokens=False).input_ids])
    with torch.no_grad():
        states = mllm.eval()(input_ids=ids, output_hidden_states=True).hidden_states
    pack.write_qwen(tmp_path, model=mllm, tokenizer=words)
    packed = MLLM.load(recipe(tmp_path).mllm)
    assert packed.tokenizer("a red circle", add_special_tokens=False).input_ids == ids[0].tolist()
    with torch.no_grad():
        again = packed.model(input_ids=ids, output_hidden_states=True).hidden_states
    for one, other in zip(states, again, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


def test_the_configs_are_those_that_ship(mllm: Any, words: Qwen2Tokenizer, tmp_path: Path) -> None:
    autoencoder = vae.untrained()
    pack.write_flux(tmp_path, autoencoder=autoencoder, parts=dit.TeacherParts())
    pack.write_qwen(tmp_path, model=mllm, tokenizer=words)
    thinker, hearing = omni.widened(trained_folder() / pack.QWEN)
    pack.write_omni(tmp_path, model=thinker, tokenizer=hearing)
    shipped = trained_folder()
    for path in sorted(path for path in tmp_path.rglob("*") if path.suffix in (".json", ".jinja")):
        name = path.relative_to(tmp_path)
        if name not in LEARNT_ANEW:
            assert path.read_text("utf-8") == (shipped / name).read_text("utf-8"), name


def test_a_manifest_tells_of_every_part_and_every_file(tmp_path: Path) -> None:
    for number, name in enumerate(pack.PARTS):
        (tmp_path / "logs" / name).mkdir(parents=True)
        lines = [{"step": 50, "seconds": 1.0, "loss": 9.0}, {"step": 100, "seconds": 2.0 + number, "loss": 0.5}]
        log = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "logs" / name / trainer.LOG).write_text(log, encoding="utf-8")
    folder = tmp_path / "weights"
    (folder / "flux").mkdir(parents=True)
    (folder / "flux" / "model.safetensors").write_bytes(b"weights")
    pack.write_manifest(folder, logs=tmp_path / "logs")
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    assert manifest["sha256"] == {"flux/model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    assert list(manifest["parts"]) == list(pack.PARTS)
    assert manifest["parts"]["text"] == {
        "seed": text.SEED,
        "steps": text.SCHEDULE.steps,
        "seconds": 3.0,
        "last": {"loss": 0.5},
    }


def test_the_audio_tower_is_added_to_the_manifest_of_the_others(tmp_path: Path) -> None:
    folder = tmp_path / pack.OMNI
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"ears")
    (tmp_path / MANIFEST).write_text(json.dumps({"command": "before", "parts": {"vae": {}}, "sha256": {}}))
    for name in pack.AUDIO_PARTS:
        (tmp_path / "logs" / name).mkdir(parents=True)
        (tmp_path / "logs" / name / trainer.LOG).write_text('{"step": 9, "seconds": 3.0, "loss": 0.5}\n')
    pack.add_audio_to_manifest(tmp_path, logs=tmp_path / "logs")
    manifest = json.loads((tmp_path / MANIFEST).read_text("utf-8"))
    assert (manifest["command"], list(manifest["parts"])) == ("before", ["vae", "ear", "audio"])
    assert manifest["parts"]["audio"]["last"] == {"loss": 0.5}
    assert manifest["sha256"] == {"qwen2.5-omni/model.safetensors": hashlib.sha256(b"ears").hexdigest()}


def test_a_part_without_a_log_has_not_been_built(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="vae"):
        pack.write_manifest(tmp_path, logs=tmp_path)


def test_captions_are_written_one_a_line_and_none_twice(tmp_path: Path) -> None:
    pack.write_captions(tmp_path / "captions.txt")
    captions = (tmp_path / "captions.txt").read_text("utf-8").splitlines()
    assert len(captions) == len(set(captions)) == 6000
