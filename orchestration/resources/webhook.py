"""Posts JSON to an address that a file names, as chat rooms and on-call services take it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from corgi_core.errors import CorgiError

PAUSES = (1.0, 4.0)  # seconds before the second and the third try
TIMEOUT = 10  # seconds for one answer
BUSY = (408, 425, 429)  # answers that ask for another try, as all from 500 on do


@dataclass(frozen=True)
class Webhook:
    """Where alerts go.

    Attributes:
        url: The address; it is a secret where whoever knows it may post.
        headers: What the receiver asks for besides, such as an Authorization.
    """

    url: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, path: Path) -> Webhook:
        """The webhook of a file: its address, and a header a line.

        Raises:
            CorgiError: the file cannot be read, or its first line is no address.
        """
        try:
            url, *lines = path.read_text(encoding="utf-8").split("\n")
        except OSError as error:
            raise CorgiError(
                f"CORGI_ALERTS_FILE is {path}, which cannot be read ({error.strerror})",
                "write the webhook's address into that file",
            ) from error
        headers = dict(line.split(": ", 1) for line in map(str.strip, lines) if ": " in line)
        if not url.strip().startswith(("https://", "http://")):
            raise CorgiError(
                f"{path} begins with no address",
                "write the webhook's https://… into its first line",
            )
        return cls(url.strip(), headers)

    def post(self, body: Mapping[str, Any]) -> None:
        """Send the body; tries again where the receiver is busy or does not answer.

        Raises:
            CorgiError: it was not taken.
        """
        request = Request(
            self.url,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", **self.headers},
        )
        problem = ""
        for pause in (0.0, *PAUSES):
            time.sleep(pause)
            try:
                with urlopen(request, timeout=TIMEOUT):
                    return
            except HTTPError as error:
                problem = f"answers {error.code}"
                if error.code < 500 and error.code not in BUSY:
                    break
            except (OSError, HTTPException) as error:
                problem = f"does not answer ({type(error).__name__})"
        raise CorgiError(
            f"the receiver of alerts {problem}",
            "see to it, or correct the address in CORGI_ALERTS_FILE; the alert is sent again",
        )
