"""Recipes on disk: YAML files that extend one another, plus `--set a.b=c` on top, become one frozen `Recipe`.

Invariant: what is returned was validated whole; whatever is wrong is reported with the recipe's name, the key and, for
an unknown key, the nearest known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from x2i_platform.config import Recipe
from x2i_platform.errors import ConfigError

Tree = dict[str, Any]


def load(name: str, *, shipped: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe by shipped name or by path to a YAML file, with `a.b=value` overrides on top.

    Raises ConfigError for an unknown recipe, an unknown key, a value that doesn't fit, or a circle of `extends:`.
    """
    path = _find(name, shipped=shipped)
    tree = _read_chain(path, shipped=shipped, seen=())
    return _validated({**tree, "name": path.stem}, overrides)


def override(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe with `a.b=value` overrides on top. Raises ConfigError as `load` does."""
    return _validated(recipe.model_dump(mode="json"), overrides)


def shipped_names(shipped: Path) -> list[str]:
    """Names of the recipes in a folder, sorted."""
    return sorted(path.stem for path in shipped.glob("*.yaml"))


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint `; did you mean 'x'?`, or the list of what is known where nothing is near."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(names)}"


def _validated(tree: Tree, overrides: Sequence[str]) -> Recipe:
    for text in overrides:
        _apply(tree, text)
    try:
        return _anchored(Recipe.model_validate(tree))
    except ValidationError as error:
        raise ConfigError(f"recipe '{tree['name']}': {_first_problem(error)}") from None


def _anchored(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths of the model folders that are here: workers have another working folder."""
    changed = {}
    for section in ("teacher", "mllm"):
        part = getattr(recipe, section)
        with suppress(OSError):  # no name that a folder can have
            if part.model.strip() and Path(part.model).is_dir():
                changed[section] = part.model_copy(update={"model": str(Path(part.model).absolute())})
    return recipe.model_copy(update=changed)


def _find(name: str, *, shipped: Path) -> Path:
    looks_like_path = name.endswith((".yaml", ".yml")) or "/" in name
    path = Path(name) if looks_like_path else shipped / f"{name}.yaml"
    with suppress(OSError):  # no name that a file can have
        if path.is_file():
            return path
    if looks_like_path:
        raise ConfigError(f"recipe file '{name}' doesn't exist")
    raise ConfigError(f"unknown recipe '{name}'{nearest(name, shipped_names(shipped))}")


def _read_chain(path: Path, *, shipped: Path, seen: tuple[Path, ...]) -> Tree:
    """The tree of a recipe file merged over those it extends."""
    if path.resolve() in seen:
        raise ConfigError(f"recipe '{path.stem}': `extends` goes round in a circle")
    tree = _read_yaml(path)
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise ConfigError(f"recipe '{path.stem}': `extends` must be one recipe name or path, not {parent!r}")
    sibling = path.parent / parent
    found = sibling if sibling.is_file() else _find(parent, shipped=shipped)
    return merge(_read_chain(found, shipped=shipped, seen=(*seen, path.resolve())), tree)


class _UniqueKeySafeLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; a recipe must not lose a line that way."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=deep) for key in own]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"key {sorted(map(str, twice))[0]!r} stands twice")
        return super().construct_mapping(node, deep=deep)


def _read_yaml(path: Path) -> Tree:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeySafeLoader)
    except OSError as error:
        raise ConfigError(f"recipe file '{path}' can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe file '{path}' is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"recipe file '{path}' must hold a mapping of sections, not {type(tree).__name__}")
    return tree


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> Tree:
    """A new tree: `top` over `base`, section by section."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _apply(tree: Tree, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r}: expected key=value, such as train.steps=200")
    *sections, leaf = key.strip().split(".")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: '{section}' is a value, not a section")
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override!r}: {text!r} is not a valid YAML value") from None


def _first_problem(error: ValidationError) -> str:
    """The first problem of a validation, as one line."""
    problem = error.errors()[0]
    where = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        section = ".".join(where[:-1])
        place = f" in {section}" if section else ""
        return f"unknown key '{where[-1]}'{place}{nearest(where[-1], _fields_at(where[:-1]))}"
    if problem["type"] == "missing":
        return f"'{'.'.join(where)}' is missing"
    if problem["type"] == "value_error":  # a validator of ours, whose message names the values
        return problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "invalid_key":
        return f"key {problem['input']!r} should be text"
    return _wrong_value(error)


def _wrong_value(error: ValidationError) -> str:
    """A value of the wrong kind. A field of several kinds has one problem a kind, under the kind's own name."""
    problems = [(_key(problem["loc"]), problem["input"], problem["msg"]) for problem in error.errors()]
    first = problems[0][0]
    key, value, _ = max((p for p in problems if p[0].startswith(first)), key=lambda problem: len(problem[0]))
    kinds = [message.removeprefix("Input should be ") for other, _, message in problems if other == key]
    return f"{key} = {value!r}: should be {' or '.join(kinds)}"


def _key(loc: Sequence[int | str]) -> str:
    """The part of a problem's place that a recipe can name, without the names of kinds that pydantic adds."""
    return ".".join(str(part) for part in loc if str(part).isidentifier() or isinstance(part, int))


def _fields_at(where: Sequence[str]) -> list[str]:
    """Names of the fields of the section at a path such as `run.text`."""
    section: type[BaseModel] = Recipe
    for part in where:
        annotation = section.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)
