"""`models.json`: the model folders that the aliases of a workspace's registry stand for.

MLflow's registry decides which version has an alias. Every registration writes that down here, so
that sampling needs no MLflow: `CorgiPipeline.from_pretrained("emoji")` reads this one file.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.files import read_json, write_json
from corgi_core.io.folders import published
from corgi_core.io.model_folder import CONFIG, digest_of_config

MODELS_FILE = "models.json"
CHAMPION = "champion"
PARTS = ("clip", "prior", "decoder")
FORMAT = 2  # raised when the file or its digests change; 2: a model's settings count


def champion_of(caption_subset: str) -> str:
    """The alias of the best prior that learned from a caption subset.

    Examples:
        >>> champion_of("1.7%")
        'champion-1_7'
    """
    return f"{CHAMPION}-{alias_of(caption_subset)}"


def is_champion(alias: str) -> bool:
    """Whether an alias is a champion's: of all models, or of a caption subset."""
    return alias == CHAMPION or alias.startswith(f"{CHAMPION}-")


def alias_of(caption_subset: str) -> str:
    """A caption subset as aliases have it, which may have neither dots nor percent signs."""
    return caption_subset.removesuffix("%").replace(".", "_")


@dataclass(frozen=True)
class TextEncoderName:
    """The frozen encoder of the text tokens: its name, and how many tokens it reads of a caption.

    The name is "minilm", a hub id, or a local folder.
    """

    name: str
    max_tokens: int


@dataclass(frozen=True)
class IndexedModel:
    """A model folder and the digest of its content."""

    folder: Path
    digest: str

    def checked_folder(self, part: str) -> Path:
        """The folder; CorgiError where it is gone or holds another model than this `part`."""
        found = digest_in(self.folder)
        if found != self.digest:
            holds = "is gone" if found is None else f"holds the model {found}"
            raise CorgiError(
                f"{self.folder} should hold the {part} {self.digest} and {holds}",
                "materialise registered_models again",
            )
        return self.folder


@dataclass(frozen=True)
class ModelIndex:
    """The models of one workspace, by part ("clip", "prior", "decoder") and alias."""

    workspace: str
    text_encoder: TextEncoderName
    models: Mapping[str, Mapping[str, IndexedModel]]

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Folders under the workspace's parent are written relative to the file, so the whole may be
        moved.
        """
        models = {
            part: {
                alias: {"folder": _relative(model.folder, path), "digest": model.digest}
                for alias, model in by_alias.items()
            }
            for part, by_alias in self.models.items()
        }
        content = {
            "format": FORMAT,
            "workspace": self.workspace,
            "text_encoder": asdict(self.text_encoder),
            "models": models,
        }
        write_json(path, content)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; CorgiError where there is no such file or it is of no use."""
        if not path.is_file():
            raise CorgiError(
                f"nothing is registered in {path.parent}: {path.name} is missing",
                "train the models first, with `corgi run`, or name another workspace or home; data "
                "without captions have no prior: take one of other data (--prior FOLDER)",
            )
        try:
            content: dict[str, Any] = read_json(path)
            if content["format"] != FORMAT:
                raise CorgiError(
                    f"{path} has the format {content['format']}, and this version reads {FORMAT}",
                    "materialise registered_models again",
                )
            models = {
                part: {
                    alias: IndexedModel(path.parent / model["folder"], model["digest"])
                    for alias, model in by_alias.items()
                }
                for part, by_alias in content["models"].items()
            }
            return cls(content["workspace"], TextEncoderName(**content["text_encoder"]), models)
        except CorgiError:  # of another format
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorgiError(
                f"{path} is damaged ({error})", "materialise registered_models again"
            ) from error

    def folder(self, part: str, alias: str = CHAMPION) -> Path:
        """The model folder of a part that has the alias.

        Raises:
            CorgiError: If no model has the alias, or its folder is gone or holds another model.
        """
        known = self.models.get(part, {})
        if alias not in known:
            raise CorgiError(
                f"the workspace {self.workspace} has no {part} with the alias {alias!r}",
                f"choose one of {', '.join(sorted(known))}, or give a model folder as ./NAME"
                if known
                else f"materialise a {part}, then registered_models",
            )
        return known[alias].checked_folder(part)

    def others(self, part: str) -> dict[str, IndexedModel]:
        """A part's models that are not its champion, each by one of its aliases."""
        known = self.models.get(part, {})
        listed = {known[CHAMPION].digest} if CHAMPION in known else set[str]()
        found = dict[str, IndexedModel]()
        for alias, model in sorted(known.items()):
            if model.digest not in listed:
                listed.add(model.digest)
                found[alias] = model
        return found

    @classmethod
    def champions_in(cls, path: Path, part: str) -> dict[str, Path]:
        """The folders of a part's champions by alias, where the file and the folders are whole."""
        try:
            index = cls.load(path)
        except CorgiError:  # nothing is registered yet
            return {}
        aliases = [alias for alias in index.models.get(part, {}) if is_champion(alias)]
        found = dict[str, Path]()
        for alias in aliases:
            with suppress(CorgiError):  # its folder is gone
                found[alias] = index.folder(part, alias)
        return found


def digest_in(folder: Path | UPath) -> str | None:
    """The digest of a saved prior, decoder or CLIP ensemble; None where there is none."""
    folder = published(folder)
    if (folder / CONFIG).is_file():
        return digest_of_config(read_json(folder / CONFIG))
    if (folder / "ensemble.json").is_file():
        return str(read_json(folder / "ensemble.json").get("digest"))
    return None


def _relative(folder: Path, index: Path) -> str:
    folder, home = folder.absolute(), index.absolute().parent.parent
    if not folder.is_relative_to(home):
        return str(folder)
    return str(Path("..") / folder.relative_to(home))
