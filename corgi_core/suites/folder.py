"""The folder of a suite: its prompts, and each model's pictures of them.

    suite.json                  the prompts
    MODEL/model.json            what made the pictures; not there for pictures from elsewhere
    MODEL/17/0.png              the picture of prompt 17 with seed 0
    index.html, category-….html to look at (`corgi_core.suites.gallery`)

Pictures that another program made can be put there under the same names: pages and ratings treat
every model alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from corgi_core.errors import CorgiError
from corgi_core.io.files import read_json, write_json
from corgi_core.suites.prompts import Prompt, PromptSuite

SUITE_FILE, MODEL_FILE = "suite.json", "model.json"
CANONICAL = re.compile(r"0|[1-9][0-9]*")  # of a seed
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class SuiteFolder:
    """A suite and the folder of the pictures of its prompts."""

    path: Path
    suite: PromptSuite

    @classmethod
    def create(cls, path: Path, suite: PromptSuite) -> SuiteFolder:
        """The folder of a suite, made where there is none.

        Raises:
            CorgiError: If it is another suite's, whose pictures have the same names.
        """
        if (path / SUITE_FILE).exists():
            found = cls.load(path)
            if found.suite.digest != suite.digest:
                raise CorgiError(
                    f"{path} has pictures of the suite {found.suite.name}, with other prompts",
                    "give another folder with --out",
                )
            return found
        path.mkdir(parents=True, exist_ok=True)
        content = {"name": suite.name, "prompts": [asdict(prompt) for prompt in suite.prompts]}
        write_json(path / SUITE_FILE, content)
        return cls(path, suite)

    @classmethod
    def load(cls, path: Path) -> SuiteFolder:
        """The suite that a folder holds.

        Raises:
            CorgiError: If it holds none.
        """
        try:
            content = read_json(path / SUITE_FILE)
            prompts = tuple(Prompt(**prompt) for prompt in content["prompts"])
            return cls(path, PromptSuite(str(content["name"]), prompts))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CorgiError(
                f"{path} holds no prompt suite: there is no {SUITE_FILE}",
                "make one with `corgi suite PROMPTS --out FOLDER`",
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise CorgiError(
                f"{path / SUITE_FILE} is damaged", "remove it, and run `corgi suite` again"
            ) from error

    def picture(self, model: str, prompt: int, seed: int) -> Path:
        """The file of a model's picture of a prompt, by number, with a seed."""
        return self.path / model / str(prompt) / f"{seed}.png"

    @property
    def models(self) -> list[str]:
        """The models that have a folder, in alphabetical order."""
        return sorted(
            folder.name
            for folder in self.path.iterdir()
            if folder.is_dir() and MODEL_NAME.fullmatch(folder.name)
        )

    def seeds(self, models: Sequence[str], prompt: int) -> list[int]:
        """The seeds with which every one of the models has a picture of the prompt.

        Files that are named otherwise, such as 0000.png, are nobody's.
        """
        found = [
            {
                int(file.stem)
                for file in (self.path / model / str(prompt)).glob("*.png")
                if CANONICAL.fullmatch(file.stem)
            }
            for model in models
        ]
        return sorted(set.intersection(*found)) if found else []

    def made_by(self, model: str) -> dict[str, Any]:
        """What was noted of a model; nothing where its pictures are from elsewhere."""
        note = self.path / model / MODEL_FILE
        return dict(read_json(note)) if note.exists() else {}

    def enter_model(self, model: str, made_by: dict[str, Any]) -> None:
        """Note what makes a model's pictures.

        Raises:
            CorgiError: If the name cannot be a folder's, or something else made the pictures that
                are there.
        """
        check_model_name(model)
        note = self.path / model / MODEL_FILE
        if not note.exists():
            if any(note.parent.glob("*/*.png")):
                raise CorgiError(
                    f"{note.parent} has pictures that `corgi suite` did not make",
                    f"give your model another name with --model NAME={model}",
                )
            write_json(note, made_by)
        elif (found := self.made_by(model)) != made_by:
            changed = [key for key in made_by if found.get(key) != made_by[key]]
            raise CorgiError(
                f"{note.parent} has pictures made with another {' and '.join(changed)}",
                f"give these another name with --model NAME=SOURCE, or remove {note.parent}",
            )


def check_model_name(model: str) -> None:
    """Raises CorgiError for what is no plain name of a folder."""
    if not MODEL_NAME.fullmatch(model):
        raise CorgiError(
            f"{model!r} cannot be a model's name",
            "take letters, digits, dots, dashes and underscores: --model NAME=SOURCE",
        )
