"""Recipes: what extends what, what `--set` changes, and the one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines import RECIPES
from tests.random_models import RANDOM
from x2i_platform.config import Recipe
from x2i_platform.errors import ConfigError
from x2i_platform.recipes import load, override, shipped_names


def write(folder: Path, **recipes: str) -> Path:
    for name, text in recipes.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def refused(text: str | bytes, folder: Path) -> str:
    """The message for a recipe file `mine.yaml` of this content."""
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load(str(path), shipped=RECIPES)
    return one_line(caught.value)


def set_refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(RANDOM, shipped=RECIPES, overrides=overrides)
    return one_line(caught.value)


def one_line(error: ConfigError) -> str:
    message = str(error)
    assert "\n" not in message
    assert len(message) < 300, "a message, not a dump of the recipe"
    return message


@pytest.mark.parametrize("name", shipped_names(RECIPES))
def test_every_shipped_recipe_is_valid_and_survives_a_round_trip(name: str) -> None:
    recipe = load(name, shipped=RECIPES)
    assert recipe.name == name
    assert recipe.description
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))) == recipe


def test_the_promised_recipes_ship_and_schnell_reads_256_tokens() -> None:
    real = ["flux-dev_qwen2.5-vl-3b", "flux-dev_qwen2.5-vl-7b", "flux-schnell_qwen2.5-vl-7b"]
    others = ["sd3.5-medium_qwen2.5-vl-7b", "shuttle-3_qwen2.5-vl-7b"]
    assert shipped_names(RECIPES) == [*real, "mini", "mini-full", "mini-reference", *others]
    dev, schnell = (load(name, shipped=RECIPES) for name in ("flux-dev_qwen2.5-vl-7b", "flux-schnell_qwen2.5-vl-7b"))
    assert (dev.teacher.text_tokens, schnell.teacher.text_tokens, schnell.mllm.max_tokens) == (512, 256, 256)
    assert schnell.run == dev.run


def test_a_chain_of_extends_is_merged_section_by_section(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="extends: mini\ntrain: {steps: 5, lr: 1.0e-2}\nstore: {samples_per_shard: 3}\n",
        middle="extends: base.yaml\ntrain: {steps: 7}\nrun: {text: {batch_size: 2}}\n",
        top="extends: middle.yaml\ndescription: mine\ntrain: {seed: 9}\n",
    )
    recipe, mini = load(str(tmp_path / "top.yaml"), shipped=RECIPES), load("mini", shipped=RECIPES)
    assert (recipe.name, recipe.description) == ("top", "mine")
    assert (recipe.train.steps, recipe.train.lr, recipe.train.seed) == (7, 1e-2, 9)
    assert (recipe.store.samples_per_shard, recipe.run.text.batch_size) == (3, 2)
    assert recipe.run.text.num_cpus == mini.run.text.num_cpus, "a neighbour in the same section is kept"
    assert recipe.teacher == mini.teacher


def test_extends_finds_siblings_shipped_names_and_other_folders(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    write(tmp_path, near="extends: mini\ntrain: {steps: 3}\n")
    write(tmp_path / "far", mine="extends: ../near.yaml\n", absolute=f"extends: {tmp_path}/near.yaml\n")
    for name in ("mine", "absolute"):
        assert load(str(tmp_path / "far" / f"{name}.yaml"), shipped=RECIPES).train.steps == 3


def test_a_circle_is_named(tmp_path: Path) -> None:
    write(tmp_path, a="extends: b.yaml\n", b="extends: ./c.yaml\n", c=f"extends: {tmp_path}/a.yaml\n")
    with pytest.raises(ConfigError, match=r"recipe 'a': `extends` goes round in a circle"):
        load(str(tmp_path / "a.yaml"), shipped=RECIPES)
    assert "circle" in refused("extends: mine.yaml\n", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold a mapping of sections, not NoneType"),
        ("- a\n", "must hold a mapping of sections, not list"),
        ("extends: mini\ntrain: {steps: 1, steps: 2}\n", "key 'steps' stands twice"),
        ("extends: mini\nextends: mini\n", "key 'extends' stands twice"),
        ("extends: [mini]\n", "`extends` must be one recipe name or path, not ['mini']"),
        ("extends: minni\n", "unknown recipe 'minni'; did you mean 'mini'?"),
        ("extends: ./gone.yaml\n", "recipe file './gone.yaml' doesn't exist"),
        ("extends: mini\ntrian: {steps: 1}\n", "recipe 'mine': unknown key 'trian'; did you mean 'train'?"),
        ("extends: mini\nrun: {text: {batch: 1}}\n", "unknown key 'batch' in run.text; did you mean 'batch_size'?"),
        ("extends: mini\ntrain: 3\n", "train = 3: should be a valid dictionary"),
        ("extends: mini\ntrain:\n", "train = None: should be a valid dictionary"),
        ("extends: mini\n1: 2\n", "key 1 should be text"),
        ("teacher: {model: x}\n", "'mllm' is missing"),
        ("teacher: {}\nmllm: {model: x}\n", "'teacher.model' is missing"),
        ("extends: mini\ndescription: 5\n", "description = 5: should be a valid string"),
        ("extends: mini\nmllm: {revision: 123}\n", "mllm.revision = 123: should be a valid string"),
        (b"\xff\xfe", "is not valid YAML: 'utf-8' codec can't decode"),
        ("train: [\n", "is not valid YAML"),
        ("extends: mini\nname: !!python/name:os.system\n", "is not valid YAML: could not determine a constructor"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert message in refused(text, tmp_path)


def test_yaml_merge_keys_work(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: mini\nrun:\n  text: &pool {batch_size: 3, actors: 2}\n  mllm: {<<: *pool, actors: 1}\n")
    run = load(str(path), shipped=RECIPES).run
    assert (run.mllm.batch_size, run.mllm.actors, run.text.actors) == (3, 1, 2)


def test_an_unknown_recipe_names_the_nearest() -> None:
    for name, message in [
        ("flux-dev_qwen2.5-vl", "unknown recipe 'flux-dev_qwen2.5-vl'; did you mean 'flux-dev_qwen2.5-vl-"),
        ("nonsense", "unknown recipe 'nonsense'; known: flux-dev_qwen2.5-vl-3b, "),
        ("", "unknown recipe ''"),
        ("no/such.yaml", "recipe file 'no/such.yaml' doesn't exist"),
        ("/tmp", "recipe file '/tmp' doesn't exist"),
        ("x" * 280 + ".yaml", "doesn't exist"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load(name, shipped=RECIPES)
        assert message in str(caught.value)


def test_set_changes_values_of_every_kind_and_the_last_one_wins() -> None:
    recipe = load(
        "mini",
        shipped=RECIPES,
        overrides=[
            *("train.steps=9", "train.steps=12", "train.lr=2e-4", "targets.taps=[double.0.image, single.0]"),
            *("targets.image_tokens=5", "train={seed: 4}", "mllm.template='say {caption}'", "teacher.revision=null"),
            *("run.train.strategy=ddp", "train.gradient_checkpointing=yes"),
        ],
    )
    assert recipe.targets.taps == ("double.0.image", "single.0")
    assert recipe.targets.image_tokens == 5
    assert recipe.train.seed == 4, "a whole section replaces what was set before"
    assert recipe.train.steps == load("flux-dev_qwen2.5-vl-7b", shipped=RECIPES).train.steps
    assert (recipe.mllm.template, recipe.teacher.revision, recipe.run.train.strategy) == ("say {caption}", None, "ddp")
    again = override(recipe, ["train.lr=2e-4", "train.gradient_checkpointing=yes"])
    assert (again.train.lr, again.train.gradient_checkpointing, again.train.seed) == (2e-4, True, 4)
    assert override(again, []) == again


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.stepz=1", "recipe 'random': unknown key 'stepz' in train; did you mean 'steps'?"),
        ("targets.tokenz=1", "unknown key 'tokenz' in targets; "),
        ("trian.steps=1", "unknown key 'trian'; did you mean 'train'?"),
        ("run.targets.batchsize=1", "unknown key 'batchsize' in run.targets; did you mean 'batch_size'?"),
        ("run.text.deeper.x=1", "unknown key 'deeper' in run.text"),
        ("train..x=1", "unknown key '' in train"),
        ("train.steps.x=3", "--set 'train.steps.x=3': 'steps' is a value, not a section"),
        ("train.steps", "--set 'train.steps': expected key=value, such as train.steps=200"),
        ("=3", "expected key=value"),
        ("train.steps=[", "'[' is not a valid YAML value"),
        ("train.steps=!!python/object:os.system x", "is not a valid YAML value"),
        ("train.steps=many", "train.steps = 'many': should be a valid integer"),
        ("train.steps=true", "train.steps = True: should be a valid integer"),
        ("train.steps=2.5", "train.steps = 2.5: should be a valid integer"),
        ("train.steps=0", "train.steps = 0: should be greater than or equal to 1"),
        ("train.steps=", "train.steps = None: should be a valid integer"),
        ("train.lr=.nan", "train.lr = nan: should be a finite number"),
        ("teacher.guidance=.inf", "teacher.guidance = inf: should be a finite number"),
        ("train.betas=[0.9, 1.5]", "train.betas.1 = 1.5: should be less than 1"),
        ("train.betas=[0.9]", "'train.betas.1' is missing"),
        ("targets.taps=dubble", "targets.taps = 'dubble': should be 'all', 'double' or 'single' or a valid tuple"),
        ("targets.taps=[single.0, 3]", "targets.taps.1 = 3: should be a valid string"),
        ("targets.image_tokens=most", "targets.image_tokens = 'most': should be a valid integer or 'all'"),
        ("targets.codec=fp8", "targets.codec = 'fp8': should be 'bf16' or 'int8'"),
        ("teacher=flux", "teacher = 'flux': should be a valid dictionary"),
        ("teacher.resolution=100", "teacher.resolution = 100: should be a multiple of 16"),
        (
            "run.train.workers=3",
            "train.batch_size = 8 must be a multiple of run.train.workers x train.accumulation = 3",
        ),
        ("mllm.template=hello", "template 'hello' must contain the whole {caption}"),
        ("mllm.template='{caption:.5}'", "template '{caption:.5}' must contain the whole {caption}"),
        ("mllm.template='{text}'", "can't be filled: KeyError('text'); use {caption}"),
        ("mllm.template='{caption.x}'", "can't be filled: AttributeError"),
        ("mllm.template='{caption[x]}'", "can't be filled: TypeError"),
        ("mllm.template='{'", "can't be filled: ValueError"),
    ],
)
def test_a_bad_set_is_one_clear_line(setting: str, message: str) -> None:
    assert message in set_refused(setting)


def test_answers_fit_the_teachers_text_and_have_no_padding_of_the_references() -> None:
    answers = "mllm.states=mixed"
    assert "mllm.answer_tokens = 600 exceeds" in set_refused(answers, "mllm.answer_tokens=600")
    assert "'reference' pads prompts; mllm.states 'mixed'" in set_refused(answers, "alignnet.padding=reference")
    load(RANDOM, shipped=RECIPES, overrides=["mllm.answer_tokens=600"])
    load(RANDOM, shipped=RECIPES, overrides=["mllm.states=answer", "mllm.answer_tokens=600", "alignnet.padding=none"])


def test_model_folders_that_are_here_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flux").mkdir()
    recipe = load(RANDOM, shipped=RECIPES, overrides=["teacher.model=./flux", "mllm.model=org/name"])
    assert recipe.teacher.model == str(tmp_path / "flux")
    assert recipe.mllm.model == "org/name"
    assert override(recipe, ["mllm.model=flux"]).mllm.model == str(tmp_path / "flux")


def test_a_warm_start_needs_the_teachers_number_of_tokens() -> None:
    warm = "train.warm_start_steps=10"
    assert "train.warm_start_steps = 10 needs the teacher's" in set_refused(warm, "alignnet.padding=none")
    load(RANDOM, shipped=RECIPES, overrides=[warm])
    load(RANDOM, shipped=RECIPES, overrides=["alignnet.padding=none"])


def test_prompts_may_be_longer_than_those_that_alignnet_learns_from() -> None:
    load(RANDOM, shipped=RECIPES, overrides=["mllm.max_tokens=600"])
