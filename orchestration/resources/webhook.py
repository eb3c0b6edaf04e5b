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
from urllib.request import HTTPRedirectHandler, Request, build_opener

from corgi_core.errors import CorgiError

PAUSES = (1.0, 4.0)  # seconds before the second and the third try
TIMEOUT = 10  # seconds for one answer
BUSY = (408, 425, 429)  # answers that ask for another try, as all from 500 on do
MOVED = range(300, 400)
OF_THE_BODY = (400, 413, 422)  # answers that another try would not change


class RefusedBodyError(CorgiError):
    """The receiver does not want this body, now or later; other bodies it may take."""


class _Stays(HTTPRedirectHandler):
    """Follows no redirect: Python would ask the other address by GET, with all our headers."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_opener = build_opener(_Stays)


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
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
            raise CorgiError(
                f"CORGI_ALERTS_FILE is {path}, which cannot be read ({why})",
                "write the webhook's address into that file",
            ) from None
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
            RefusedBodyError: the receiver will not take this body.
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
                with _opener.open(request, timeout=TIMEOUT):
                    return
            except HTTPError as error:
                problem = f"answers {error.code}"
                if error.code in OF_THE_BODY:
                    raise RefusedBodyError(
                        f"the receiver of alerts {problem}, so it does not want this one",
                        "see to it that it takes JSON as docs/deployment.md shows it",
                    ) from None
                if error.code in MOVED:
                    problem += ", that it is elsewhere"
                if error.code < 500 and error.code not in BUSY:
                    break
            except (OSError, HTTPException) as error:
                problem = f"does not answer ({type(error).__name__})"
            except ValueError:  # whose text quotes the header
                problem = "cannot be asked: the address or a header has characters it may not have"
                break
        raise CorgiError(
            f"the receiver of alerts {problem}",
            "see to it, or correct the address in CORGI_ALERTS_FILE; the alert is sent again",
        )
