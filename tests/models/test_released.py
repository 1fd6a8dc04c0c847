"""Checkpoints as the authors' code writes them, ours, and files that are neither."""

import json
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from x2i_platform.config import AlignNetConfig, Fusion, Padding
from x2i_platform.errors import WeightsError
from x2i_platform.models.alignnet import AlignNet, AlignNetDims, pad_states
from x2i_platform.models.model_folder import load_alignnet, save_alignnet
from x2i_platform.models.released import export_released, from_state, import_checkpoint

DIMS = AlignNetDims(5, 48, text_tokens=12, prompt_dim=32, pooled_dim=8)
T5_DIMS = AlignNetDims(5, 48, text_tokens=12, prompt_dim=32, pooled_dim=8, t5_heads=3, t5_head_dim=8)
CASES = [
    (AlignNetConfig(fusion="conv", padding="reference"), DIMS),
    (AlignNetConfig(fusion="scale", padding="reference"), DIMS),
    (AlignNetConfig(fusion="mean", padding="reference"), DIMS),
    (AlignNetConfig(fusion="conv", t5_layers=2, padding="reference"), T5_DIMS),
]


def released_config(config: AlignNetConfig, dims: AlignNetDims) -> dict[str, Any]:
    """The constructor arguments that the released `.pt` files hold."""
    return {
        "in_channels": dims.num_layers, "kernel_size": 5, "input_dim": dims.hidden_size,
        "output_dim0": dims.pooled_dim, "output_dim1": dims.prompt_dim, "num_layers": 2, "num_heads": 3,
        "norm_eps": 1e-6, "head_dim": 8, "use_t5": config.t5_layers > 0, "use_scale": config.fusion == "scale",
        "use_cnn": config.fusion != "mean",
    }  # fmt: skip


def released_state(fusion: Fusion) -> dict[str, Tensor]:
    """A state dict built from the released key names and shapes alone, without our class."""
    mlp = nn.Module()
    mlp.layernorm = nn.LayerNorm(48)
    mlp.projector = nn.Sequential(nn.Linear(48, 32, bias=False), nn.GELU(), nn.Linear(32, 32, bias=False))
    mlp.fc = nn.Sequential(nn.GELU(), nn.Linear(32, 8))
    root = nn.Module()
    root.mlp = mlp
    if fusion == "scale":
        root.cha_scale = nn.Parameter(torch.randn(1, 5, 1, 1))
    else:
        root.conv = nn.Conv2d(5, 1, 5, padding=2)
    return {key: value.detach() for key, value in root.state_dict().items()}


def assert_same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert tensor.dtype == theirs[key].dtype
        assert torch.equal(tensor, theirs[key]), key


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "trainer.proj.module."])
@pytest.mark.parametrize("fusion", ["conv", "scale"])
def test_released_layout_is_understood(tmp_path: Path, prefix: str, fusion: Fusion) -> None:
    state = released_state(fusion)
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "diffusion_pytorch_model.bin")
    config, dims, loaded = import_checkpoint(tmp_path / "diffusion_pytorch_model.bin")
    assert config == AlignNetConfig(fusion=fusion, padding="reference")
    assert dims == AlignNetDims(5, 48, text_tokens=512, prompt_dim=32, pooled_dim=8)
    assert_same_bits(loaded, state)


@pytest.mark.parametrize("names", [("module",), ("model_state_dict",), ("state_dict", "model")])
def test_what_trainers_save_around_it_is_opened(tmp_path: Path, names: tuple[str, ...]) -> None:
    state = released_state("conv")
    content: dict[str, object] = {f"module.{key}": value for key, value in state.items()}
    for name in reversed(names):
        content = {name: content, "global_steps": 7, "optimizer": {}}
    torch.save(content, tmp_path / "mp_rank_00_model_states.pt")
    assert_same_bits(import_checkpoint(tmp_path / "mp_rank_00_model_states.pt")[2], state)
    torch.save({**content, "ema": {}, "model": state, "module": state}, tmp_path / "two.pt")
    with pytest.raises(WeightsError, match=r"holds several state dicts: .*'module', 'model'"):
        import_checkpoint(tmp_path / "two.pt")


def test_two_alignnets_in_one_file_are_not_mixed(tmp_path: Path) -> None:
    state, average = released_state("conv"), {f"ema.{key}": value for key, value in released_state("conv").items()}
    for content in ({**state, **average}, {**average, **state}, {**average, "mlp.fc.1.bias": state["mlp.fc.1.bias"]}):
        torch.save(content, tmp_path / "both.bin")
        with pytest.raises(WeightsError, match="holds several AlignNets, under "):
            import_checkpoint(tmp_path / "both.bin")
    endless: dict[str, object] = {}
    endless["module"] = endless
    torch.save(endless, tmp_path / "endless.pt")
    with pytest.raises(WeightsError, match="holds dict under 'module', not a state dict"):
        import_checkpoint(tmp_path / "endless.pt")


def test_a_checkpoint_of_more_than_an_alignnet_names_the_rest(tmp_path: Path) -> None:
    wrapped = {f"proj.{key}": value for key, value in released_state("conv").items()}
    torch.save({**wrapped, "dit.weight": torch.zeros(1)}, tmp_path / "all.bin")
    with pytest.raises(WeightsError, match=r"also holds 'dit\.weight'"):
        import_checkpoint(tmp_path / "all.bin")


@pytest.mark.parametrize(("config", "dims"), CASES)
@pytest.mark.parametrize("layout", ["bin", "pt", "safetensors", "legacy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_layout_round_trips_to_the_bit(
    tmp_path: Path, config: AlignNetConfig, dims: AlignNetDims, layout: str, dtype: torch.dtype
) -> None:
    alignnet = AlignNet(config, dims=dims).to(dtype)
    path = export_released(alignnet, tmp_path / "alignnet.bin")
    if layout == "pt":
        content = {"config": released_config(config, dims), "state_dict": torch.load(path, weights_only=True)}
        path = tmp_path / "alignnet.pt"
        torch.save(content, path)
    elif layout == "safetensors":
        path = save_alignnet(alignnet, tmp_path / "folder") / "alignnet.safetensors"
    elif layout == "legacy":
        torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    found_config, found_dims, state = import_checkpoint(path, num_layers=5, text_tokens=12)
    assert found_config == config
    assert found_dims == (dims if config.t5_layers else DIMS)
    assert_same_bits(state, alignnet.state_dict())
    assert_same_bits(from_state(found_config, dims=found_dims, state=state).state_dict(), alignnet.state_dict())


@pytest.mark.parametrize("padding", ["zero", "reference", "none"])
def test_folder_round_trip_gives_the_same_outputs(tmp_path: Path, padding: Padding) -> None:
    config = AlignNetConfig(fusion="conv", t5_layers=1, padding=padding, init_seed=3)
    alignnet = AlignNet(config, dims=T5_DIMS).eval()
    loaded = load_alignnet(save_alignnet(alignnet, tmp_path / "new" / "folder"))
    assert (loaded.config, loaded.dims) == (config, T5_DIMS)
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    states, mask = pad_states([torch.randn(5, 7, 48), torch.randn(5, 4, 48)], text_tokens=12, padding=padding)
    for one, other in zip(alignnet(states, mask_BS=mask), loaded(states, mask_BS=mask), strict=True):
        assert torch.equal(one, other)


def test_import_survives_the_way_through_our_folder_and_back(tmp_path: Path) -> None:
    state = released_state("conv")
    torch.save(state, tmp_path / "in.bin")
    config, dims, loaded = import_checkpoint(tmp_path / "in.bin")
    folder = save_alignnet(from_state(config, dims=dims, state=loaded), tmp_path / "ours")
    exported = export_released(load_alignnet(folder), tmp_path / "out.bin")
    assert_same_bits(torch.load(exported, weights_only=True), state)


def test_mean_fusion_alone_must_be_told_its_layers(tmp_path: Path) -> None:
    path = export_released(AlignNet(AlignNetConfig(fusion="mean"), dims=DIMS), tmp_path / "mean.bin")
    with pytest.raises(WeightsError, match="give num_layers"):
        import_checkpoint(path)
    assert import_checkpoint(path, num_layers=5)[1].num_layers == 5


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_pickles_with_code_are_refused_unrun(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for name, save in (
        ("torch.bin", torch.save),
        ("plain.pt", lambda obj, path: path.write_bytes(pickle.dumps(obj, protocol=2))),
    ):
        save({"conv.weight": Payload(trap)}, tmp_path / name)
        with pytest.raises(WeightsError, match="wants to run"):
            import_checkpoint(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".safetensors"])
@pytest.mark.parametrize("content", ["empty", "text", "random", "zip", "cut", "list", "number"])
def test_files_that_are_no_weights_are_refused(tmp_path: Path, suffix: str, content: Any) -> None:
    path = tmp_path / f"weights{suffix}"
    if content == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
    elif content == "cut":
        alignnet = AlignNet(CASES[0][0], dims=DIMS)
        whole = export_released(alignnet, tmp_path / "whole").read_bytes()
        if suffix == ".safetensors":
            whole = (save_alignnet(alignnet, tmp_path / "whole-folder") / "alignnet.safetensors").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif content in ("list", "number"):
        torch.save([torch.zeros(1)] if content == "list" else 3, path)
    else:
        path.write_bytes({"empty": b"", "text": b"not weights\n" * 9, "random": bytes(range(256)) * 9}[content])
    with pytest.raises(WeightsError, match=str(path)) as caught:
        import_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["zip", "legacy", "safetensors"])
def test_flipped_bytes_are_read_or_refused_never_a_crash(tmp_path: Path, layout: str) -> None:
    alignnet = AlignNet(AlignNetConfig(), dims=DIMS)
    path = save_alignnet(alignnet, tmp_path) / "alignnet.safetensors"
    if layout != "safetensors":
        path = tmp_path / "alignnet.bin"
        torch.save(alignnet.state_dict(), path, _use_new_zipfile_serialization=layout == "zip")
    whole, generator = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[generator.randrange(1500)] = generator.randrange(256)
        path.write_bytes(flipped)
        try:
            import_checkpoint(path)
        except WeightsError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp.fc.1.bias": None}, "lacks 'mlp.fc.1.bias'"),
        ({"mlp.projector.0.weight": None}, "lacks 'mlp.projector.0.weight'"),
        ({"extra.weight": torch.zeros(1)}, "also holds 'extra.weight'"),
        ({"cha_scale": torch.zeros(1, 5, 1, 1)}, "also holds 'conv.bias', 'conv.weight'"),
        ({"conv.weight": torch.zeros(1, 5, 3, 3)}, r"'conv.weight' is torch.float32 \(1, 5, 3, 3\), must be"),
        ({"conv.weight": torch.zeros(5)}, "AlignNet's has 4 axes"),
        ({"mlp.projector.2.weight": torch.zeros(32, 31)}, r"must be floating point \(32, 32\)"),
        ({"mlp.fc.1.bias": torch.zeros(8, dtype=torch.int8)}, "is torch.int8"),
        ({"step": 7}, "holds int under 'step'"),
    ],
)
def test_state_dicts_of_something_else_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    state = {key: value for key, value in {**released_state("conv"), **change}.items() if value is not None}
    torch.save(state, tmp_path / "other.bin")
    with pytest.raises(WeightsError, match=message):
        import_checkpoint(tmp_path / "other.bin")


@pytest.mark.parametrize(
    ("key", "value"), [("in_channels", 6), ("norm_eps", 1e-5), ("use_cnn", False), ("use_t5", True)]
)
def test_config_that_contradicts_the_tensors_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    config = {**released_config(*CASES[0]), key: value}
    torch.save({"config": config, "state_dict": released_state("conv")}, tmp_path / "alignnet.pt")
    with pytest.raises(WeightsError, match=f"config says {key}={value!r}"):
        import_checkpoint(tmp_path / "alignnet.pt")


def test_folders_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json can't be read"):
        load_alignnet(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="no AlignNet weights at"):
        import_checkpoint(tmp_path / "nowhere.bin")
    folder = save_alignnet(AlignNet(AlignNetConfig(), dims=DIMS), tmp_path / "model")
    good = json.loads((folder / "config.json").read_text())
    for bad in ("{", "[]", "{}", json.dumps({**good, "dims": {"num_layers": "many"}}),
                json.dumps({**good, "alignnet": {"fusion": "konv"}})):  # fmt: skip
        (folder / "config.json").write_text(bad)
        with pytest.raises(WeightsError, match="does not describe an AlignNet"):
            load_alignnet(folder)
    (folder / "config.json").write_text(json.dumps({**good, "dims": {**good["dims"], "hidden_size": 64}}))
    with pytest.raises(WeightsError, match=r"alignnet\.safetensors: .* must be floating point"):
        load_alignnet(folder)


def test_saving_over_a_model_leaves_one_whole_model(tmp_path: Path) -> None:
    save_alignnet(AlignNet(AlignNetConfig(fusion="mean"), dims=DIMS), tmp_path)
    newer = AlignNet(AlignNetConfig(fusion="scale", init_seed=1), dims=DIMS)
    save_alignnet(newer, tmp_path)
    assert_same_bits(load_alignnet(tmp_path).state_dict(), newer.state_dict())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["alignnet.safetensors", "config.json"]


def test_writing_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export_released(AlignNet(AlignNetConfig(), dims=DIMS), tmp_path / "alignnet.bin")
    before = path.read_bytes()

    def cut_short(state: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(OSError, match="No space left"):
        export_released(AlignNet(AlignNetConfig(init_seed=1), dims=DIMS), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["alignnet.bin"]
