"""The server's addresses for judging: lists of places, and answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path
from pydantic import BaseModel, ConfigDict, Field

from labelscape.viewer.differences import differences
from labelscape.viewer.shown import Shown

Name = Annotated[str | None, Field(max_length=1000)]


class Said(BaseModel):
    """An answer: a class by its name, a word, or neither."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(None, alias="class")
    word: Name = None

    def to_dict(self) -> dict[str, Any]:
        return {"class": self.name, "word": self.word}


class Answered(BaseModel):
    """A new answer, and the one that the page showed before."""

    model_config = ConfigDict(extra="forbid")

    new: Said
    before: Said


def judge_of(shown: Shown) -> dict[str, Any] | None:
    """What the page is told of the places to judge."""
    judged = shown.judged
    if judged is not None:
        from labelscape.viewer.judge import WORDS

        classes = () if judged.kind == "blocks" else judged.legend.classes
        names = [{"name": one.name, "color": list(one.color)} for one in classes]
        words = list(WORDS[judged.kind])
        return {"kind": judged.kind, "file": judged.path.name, "classes": names, "words": words}
    if shown.layer("differs") is not None:
        return {"kind": "differences", "file": "", "classes": [], "words": []}
    return None


def add_judging(app: FastAPI, shown: Shown, edit: bool) -> None:
    judged = shown.judged and replace(shown.judged, edit=edit)

    @app.get("/api/places")
    def places() -> list[dict[str, Any]]:
        if judged is not None:
            return judged.items()
        first, second = shown.layer("class"), shown.layer("2-class")
        if first is None or second is None:
            raise HTTPException(404)
        return differences(first, second, shown.grid)

    if judged is None or not edit or judged.kind == "blocks":
        return

    @app.post("/api/places/{number}")
    def answer(number: Annotated[int, Path(ge=0, le=2**63 - 1)], said: Answered) -> dict[str, Any]:
        return judged.answer(number, said.new.to_dict(), said.before.to_dict())
