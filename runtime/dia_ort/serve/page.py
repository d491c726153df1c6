"""The web page at ``/``: one HTML document, with its style, its program and what it is to know.

The files in ``page/`` are joined as they are. The policy in the headers lets the browser run that
one program and that one style, by their hashes, and speak to nobody but this server.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

_STYLES = ("base.css", "controls.css", "speaking.css", "choices.css", "screens.css")
_SCRIPTS = (
    "dom.js",
    "wav.js",
    "server.js",
    "speech.js",
    "take.js",
    "spectrum.js",
    "picture.js",
    "player.js",
    "examples.js",
    "editor.js",
    "settings.js",
    "recorder.js",
    "new-voice.js",
    "voices.js",
    "history.js",
    "problems.js",
    "app.js",
)
"""The parts of the program. They share one module's scope; the last one starts it."""


@dataclass(frozen=True, slots=True)
class Page:
    """The page, ready to be sent.

    Attributes:
        html: The document, in UTF-8.
        headers: Those that go with it, the Content-Security-Policy among them.
    """

    html: bytes
    headers: dict[str, str]


def build_page(config: Mapping[str, object]) -> Page:
    """Join the page's files.

    Args:
        config: What the page is to know of the server; it stands in the document as JSON.

    Returns:
        The page and its headers.

    Raises:
        TypeError: The config holds something that JSON has no form for.
    """
    style = "".join(map(_read, _STYLES))
    program = "".join(map(_read, _SCRIPTS))
    html = _read("index.html")
    for element, content in (
        ('<script type="application/json" id="config">', _embed_json(config)),
        ("<style>", style),
        ('<script type="module">', program),
    ):
        html = html.replace(element, element + content, 1)
    policy = (
        "default-src 'none'",
        f"script-src {_hash(program)}",
        f"style-src {_hash(style)}",
        "connect-src 'self'",
        "img-src data: blob:",
        "media-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    headers = {
        "Content-Security-Policy": "; ".join(policy),
        "Permissions-Policy": "microphone=(self)",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return Page(html.encode(), headers)


def _read(name: str) -> str:
    return files(__package__).joinpath("page", name).read_text("utf-8")


def _embed_json(config: Mapping[str, object]) -> str:
    """JSON that cannot end its element, nor open a comment in it."""
    return json.dumps(config).replace("<", "\\u003c")


def _hash(source: str) -> str:
    """A source of the policy: the inline element with exactly this text."""
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
