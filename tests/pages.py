"""Reports as tests read them."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags close in order; keeps text, tables and picture sources."""

    def __init__(self, html):
        super().__init__()
        self.open, self.attributes, self.words, self.tags = [], [], [], []
        self.tables, self.sources = [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.sources.append(dict(attrs)["src"])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if {"style", "script"} & set(self.open):
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.strip()

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def pictures(self):
        assert all(
            source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
            for source in self.sources
        )
        return [
            np.array(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
            for source in self.sources
        ]
