"""The page as it is sent."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

from dia_ort.serve.page import build_page


class Elements(HTMLParser):
    """The text of each inline element."""

    def __init__(self, html):
        super().__init__()
        self.texts = {}
        self._open = None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self._open = dict(attributes).get("id", tag)

    def handle_endtag(self, _):
        self._open = None

    def handle_data(self, data):
        self.texts[self._open] = self.texts.get(self._open, "") + data


def test_the_policy_names_the_one_style_and_program():
    page = build_page({})
    texts = Elements(page.html.decode()).texts
    policy = page.headers["Content-Security-Policy"]
    for directive, element in (("script-src", "script"), ("style-src", "style")):
        digest = base64.b64encode(hashlib.sha256(texts[element].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_config_cannot_break_out_of_its_element():
    config = {"model": "</script><!--<script>alert(1)</script>", "µ": ["\u2028", 0.5, None]}
    html = build_page(config).html.decode()
    assert json.loads(Elements(html).texts["config"]) == config


def test_the_page_names_no_other_address():
    html = build_page({}).html.decode()
    assert set(re.findall(r"https?://[^\s'\"`<>)]+", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"(?:src|href)=\"(?!data:|#|docs\")", html)
