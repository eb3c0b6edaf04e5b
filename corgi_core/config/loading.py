"""Presets from YAML files, changed by layers: a file that extends another, variables, options.

A layer is a tree of settings with one origin. Layers lie one over the other: mappings are merged,
everything else is replaced, and null removes an optional section or a decoder.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from corgi_core.config.schema import DECODER_SETTINGS, FITTED, TRAINED, Preset
from corgi_core.errors import CorgiError

Tree = dict[str, Any]

PRESETS = ("emoji", "emoji-small", "emoji-full", "embeddings", "coco", "paper")
"""Names of the presets, each a file presets/<name>.yaml of this package."""
DEFAULT = "default"  # the origin of what no layer sets

EXTENDS = "extends"
LOCAL_PATHS = (  # settings that may name something on this machine, relative to where they are set
    "encoders.clip", "encoders.text", "evaluation.captions_file",
    "evaluation.inception_weights", "evaluation.dinov2_weights", "evaluation.other_priors",
    "decoders.stable_diffusion.pretrained",
)  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """Settings of one origin, which replace those of the layers beneath.

    Attributes:
        origin: for messages: a file's name, a variable's name, "--set".
        values: the tree of settings.
    """

    origin: str
    values: Tree


@dataclass(frozen=True)
class LoadedPreset:
    """A preset, and where its settings come from.

    Attributes:
        preset: the settings.
        base: the name of the preset that all layers lie upon.
        origins: origin by dotted path, of what is not a default; a path stands for all below it.
    """

    preset: Preset
    base: str
    origins: dict[str, str] = field(default_factory=dict)

    def origin_of(self, path: str) -> str:
        """Where the setting of that dotted path comes from."""
        return _origin_of(path, self.origins) or DEFAULT


@cache
def preset_named(name: str) -> Preset:
    """The preset of that name; a CorgiError that lists the known ones if there is none."""
    return load_preset(name).preset


def load_preset(name: str, layers: Sequence[Layer] = ()) -> LoadedPreset:
    """The preset of that name under the layers, the last one uppermost.

    Raises:
        CorgiError: unknown preset, unknown setting, wrong type, or a value out of range.
    """
    tree: Tree = {}
    origins: dict[str, str] = {}
    for layer in [*_preset_layers(name), *layers]:
        _overlay(tree, _canonical(layer), "", layer.origin, origins)
    tree.setdefault("name", name)
    return LoadedPreset(_preset_of(tree, origins), name, origins)


def file_layers(path: Path) -> tuple[str | None, list[Layer]]:
    """The preset that a YAML file extends (None if it does not say), and the layers over it.

    `extends` names a preset, or another file relative to this one.

    Raises:
        CorgiError: a file that cannot be read, or that extends itself.
    """
    layers: list[Layer] = []
    read: list[Path] = []
    base: str | None = None
    following: Path | None = path.absolute()
    while following is not None:
        if following in read:
            raise CorgiError(
                f"{following.name} extends itself", f"remove an `{EXTENDS}` of the chain"
            )
        read.append(following)
        values = read_yaml(following)
        extended = values.pop(EXTENDS, None)
        layers.insert(0, Layer(following.name, _absolute(values, following.parent)))
        if extended is None or extended in PRESETS:
            base, following = extended, None
        else:
            following = _extended(extended, following)
    return base, layers


def _extended(named: object, by: Path) -> Path:
    path = by.parent / str(named)
    if not isinstance(named, str) or not path.is_file():
        raise CorgiError(
            f"{by.name}: {EXTENDS} is {named!r}, neither a preset nor a file beside it",
            f"choose one of {', '.join(PRESETS)}, or the path of a YAML file",
        )
    return path.resolve()


def assigned(assignment: str) -> Layer:
    """The layer of an assignment such as "prior.layers=12"; the value is YAML."""
    path, equals, text = assignment.partition("=")
    if not equals or not path.strip():
        raise CorgiError(f"--set {assignment} assigns nothing", "write --set prior.layers=12")
    return nested_layer("--set", path.strip(), text)


def nested_layer(origin: str, path: str, text: str) -> Layer:
    """The layer that sets one dotted path to the YAML value `text`; local paths become absolute."""
    values: Any = _parsed(text, f"{origin} {path}")
    for name in reversed(path.split(".")):
        values = {name: values}
    return Layer(origin, _absolute(values, Path.cwd()))


def preset_values(preset: Preset) -> Tree:
    """The preset as a tree of plain values, as its YAML file would hold them."""
    values: Tree = TypeAdapter(Preset).dump_python(preset, mode="json")
    kinds = (settings.kind for settings in preset.decoders)
    return values | {"decoders": dict(zip(kinds, values["decoders"], strict=True))}


@lru_cache(maxsize=4)
def preset_from_yaml(text: str) -> Preset:
    """The preset that `yaml_of(preset_values(…))` came from."""
    return _preset_of(_parsed(text, "settings"), {})


def yaml_of(values: Tree) -> str:
    """A tree of settings as YAML: block mappings, lists on one line."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=96)


def read_yaml(path: Path) -> Tree:
    """The mapping in a YAML file; CorgiError with file and line where it is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorgiError(
            f"{path} cannot be read ({error})", "give the path of a YAML file"
        ) from error
    values = _parsed(text, path.name)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise CorgiError(
            f"{path.name} holds no mapping of settings", "write lines such as `seed: 1`"
        )
    return values


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars (1e-3 is a number, `no` a word), string keys, each key once."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as PyYAML declares it
        first: [each for each in resolvers if each[0].endswith((":null", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *other`, which super() resolves
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is no word", problem_mark=key_node.start_mark
                )
            if key in keys:
                raise yaml.MarkedYAMLError(
                    problem=f"{key} is there twice", problem_mark=key_node.start_mark
                )
            keys.add(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"(true|false)$", "tf"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)$", "-+0123456789"),
    ("float", r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$", "-+.0123456789"),
):  # in this order: what looks like both is an int
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


class _Dumper(yaml.SafeDumper):
    """Lists of scalars on one line."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        scalars = not any(isinstance(item, dict) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=scalars)


def _parsed(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise CorgiError(f"{origin}{line}: {error.problem}", "correct the YAML") from error
    except (yaml.YAMLError, ValueError) as error:
        raise CorgiError(f"{origin} is no YAML ({error})", "correct the YAML") from error


def _preset_layers(name: str) -> list[Layer]:
    """The layers of a preset's file and of those that it extends, the lowest first."""
    if name not in PRESETS:
        raise CorgiError(f"there is no preset {name!r}", f"choose one of {', '.join(PRESETS)}")
    values = {key: value for key, value in _preset_file(name).items() if key != EXTENDS}
    beneath = _preset_file(name).get(EXTENDS)
    return [*(_preset_layers(beneath) if beneath else []), Layer(f"preset {name}", values)]


@cache
def _preset_file(name: str) -> Tree:
    """What a preset's own file says; to be changed by nobody."""
    file = files("corgi_core.config") / "presets" / f"{name}.yaml"
    values: Tree = _parsed(file.read_text(encoding="utf-8"), f"{name}.yaml")
    return values


def _canonical(layer: Layer) -> Tree:
    """A layer's tree without short forms.

    `clip` is `encoders.clip`, a name alone is a list of one, and encoders that are named are not
    trained.
    """
    tree = deepcopy(layer.values)
    tree.pop("name", None) if tree.get("name", "") is None else None
    if "clip" in tree:
        encoders = tree.setdefault("encoders", {})
        if isinstance(encoders, dict):
            encoders["clip"] = tree.pop("clip")
    encoders = tree.get("encoders")
    if isinstance(encoders, dict) and "clip" in encoders:
        if isinstance(encoders["clip"], str):
            encoders["clip"] = [encoders["clip"]]
        if encoders["clip"] not in (list(TRAINED), list(FITTED)):
            encoders.setdefault("training", None)
    return tree


def _absolute(values: Tree, folder: Path) -> Tree:
    """Local paths among the values made absolute, where there is such a file or folder."""
    values = deepcopy(values)
    for path in (*LOCAL_PATHS, "clip"):
        *above, name = path.split(".")
        tree: Any = values
        for part in above:
            tree = tree.get(part) if isinstance(tree, dict) else None
        if isinstance(tree, dict) and name in tree:
            tree[name] = _absolute_names(tree[name], folder)
    return values


def _absolute_names(named: Any, folder: Path) -> Any:
    if isinstance(named, list):
        return [_absolute_names(each, folder) for each in named]
    if isinstance(named, str) and named and (folder / named).exists():
        return str((folder / named).absolute())
    return named


def _overlay(beneath: Tree, above: Tree, under: str, origin: str, origins: dict[str, str]) -> None:
    """Lay `above` over `beneath`, in place, and note the origin of what it sets."""
    for key, value in above.items():
        path = f"{under}{key}"
        if isinstance(value, dict) and value:
            if not isinstance(beneath.get(key), dict):
                beneath[key] = {}
                _forget(path, origins)
            _overlay(beneath[key], value, f"{path}.", origin, origins)
        elif value != {} or key not in beneath:
            beneath[key] = value
            _forget(path, origins)
            origins[path] = origin


def _forget(path: str, origins: dict[str, str]) -> None:
    for other in [each for each in origins if each == path or each.startswith(f"{path}.")]:
        del origins[other]


def _origin_of(path: str, origins: Mapping[str, str]) -> str | None:
    """The origin of a path, or of the part of the tree that it is in."""
    while path:
        if path in origins:
            return origins[path]
        path = path.rpartition(".")[0]
    return None


def _preset_of(tree: Tree, origins: Mapping[str, str]) -> Preset:
    kinds = tree.get("decoders") or {}
    if not isinstance(kinds, dict):
        raise _misplaced("decoders", kinds, "a mapping by kind", origins)
    if kinds and (tree.get("data") or {}).get("source") == "embeddings":
        raise CorgiError(
            f"the preset {tree.get('name')} has embeddings only, and no pictures to learn from",
            "leave its decoders out, or choose a preset with pictures",
        )
    decoders: list[Any] = []
    first_size = None
    for kind, values in kinds.items():
        path = f"decoders.{kind}"
        if values is None:
            continue
        if kind not in DECODER_SETTINGS:
            raise _unknown(path, origins)
        if not isinstance(values, dict):
            raise _misplaced(path, values, "a mapping of settings", origins)
        if first_size is not None:
            values.setdefault("image_size", first_size)
        first_size = first_size or values.get("image_size")
        decoders.append(_validated(DECODER_SETTINGS[kind], values, path, origins))
    preset: Preset = _validated(Preset, tree | {"decoders": decoders}, "", origins)
    return preset


def _validated(kind: type[Any], values: Tree, path: str, origins: Mapping[str, str]) -> Any:
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        found = error.errors()[0]
        names = [part for part in found["loc"] if isinstance(part, str)]
        raise _explained(found, adapter, names, path, origins) from error


def _explained(
    found: Any, adapter: TypeAdapter[Any], names: list[str], path: str, origins: Mapping[str, str]
) -> CorgiError:
    """One of pydantic's errors as a sentence with its origin, its setting and what is expected."""
    cause = found.get("ctx", {}).get("error")
    where = ".".join(filter(None, [path, *names]))
    if isinstance(cause, CorgiError):
        return cause
    if found["type"] == "unexpected_keyword_argument":
        return _unknown(where, origins)
    expected = str(cause) if cause else _expected(adapter, names)
    if found["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        origin = _origin_of(where, origins) or _origin_below(where.rpartition(".")[0], origins)
        return CorgiError(f"{origin}: {where} is missing", f"set it to {expected}")
    return _misplaced(where, found["input"], expected, origins)


def _misplaced(path: str, value: Any, expected: str, origins: Mapping[str, str]) -> CorgiError:
    origin = _origin_of(path, origins) or _origin_below(path, origins)
    return CorgiError(f"{origin}: {path} is {value!r}", f"give {expected}")


def _unknown(path: str, origins: Mapping[str, str]) -> CorgiError:
    origin = _origin_of(path, origins) or _origin_below(path, origins)
    nearest = nearest_setting(path)
    remedy = f"did you mean {nearest}?" if nearest else "`corgi config show` lists every setting"
    return CorgiError(f"{origin}: {path} is unknown", remedy)


def _origin_below(path: str, origins: Mapping[str, str]) -> str:
    """The origin of what is uppermost under a path."""
    below = [origin for each, origin in origins.items() if each.startswith(f"{path}.") or not path]
    return below[-1] if below else DEFAULT


def nearest_setting(path: str) -> str | None:
    """The known setting that a wrong dotted path was probably meant to be."""
    known = list(known_settings())
    if close := difflib.get_close_matches(path, known, 1, 0.75):
        return close[0]
    last = path.rpartition(".")[2]
    by_name = {each.rpartition(".")[2]: each for each in reversed(known)}
    close = difflib.get_close_matches(last, by_name, 1, 0.75)
    return by_name[close[0]] if close else None


def known_settings() -> Iterator[str]:
    """The dotted path of every section and setting, in the schema's order."""
    yield from ("clip", EXTENDS)
    for name, path in _settings_of(Preset, ""):
        yield path
        if name == "decoders":
            for kind, settings in DECODER_SETTINGS.items():
                yield f"decoders.{kind}"
                yield from (below for _, below in _settings_of(settings, f"decoders.{kind}."))


def _settings_of(kind: Any, under: str) -> Iterator[tuple[str, str]]:
    hints = get_type_hints(kind)
    for each in fields(kind):
        yield each.name, f"{under}{each.name}"
        for section in (hints[each.name], *get_args(hints[each.name])):
            if isinstance(section, type) and is_dataclass(section) and each.name != "decoders":
                yield from _settings_of(section, f"{under}{each.name}.")


def _expected(adapter: TypeAdapter[Any], names: list[str]) -> str:
    """What a setting may be, in words, from its JSON schema."""
    whole = adapter.json_schema()
    schema = whole
    for name in names:
        schema = _resolved(schema, whole)
        for each in (schema, *(_resolved(one, whole) for one in schema.get("anyOf", ()))):
            if name in each.get("properties", {}):
                schema = each["properties"][name]
                break
    return _in_words(schema, whole)


def _resolved(schema: Tree, whole: Tree) -> Tree:
    reference = schema.get("$ref")
    if reference is None and isinstance(schema.get("items"), dict) and "$ref" in schema["items"]:
        reference = schema["items"]["$ref"]
    return whole["$defs"][reference.rpartition("/")[2]] if reference else schema


def _in_words(schema: Tree, whole: Tree) -> str:
    if "anyOf" in schema:
        return " or ".join(_in_words(each, whole) for each in schema["anyOf"])
    if "$ref" in schema:
        return "a mapping of settings"
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        count = f" of {schema['maxItems']}" if "maxItems" in schema else ""
        return f"a list{count}, each {_in_words(items, whole)}"
    words = {
        "integer": "a whole number", "number": "a number", "string": "text", "null": "null",
        "boolean": "true or false", "object": "a mapping of settings",
    }.get(schema.get("type", ""), "another value")  # fmt: skip
    return words + _bounds(schema)


def _bounds(schema: Tree) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    if least is not None and "exclusiveMaximum" in schema:
        return f" from {least:g} to less than {schema['exclusiveMaximum']:g}"
    if least is not None:
        return f" of at least {least:g}"
    return f" above {schema['exclusiveMinimum']:g}" if "exclusiveMinimum" in schema else ""
