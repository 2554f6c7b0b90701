"""The server of a training run: one page, and a stream that keeps it up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import StreamingResponse

from labelscape.text import printable_name
from labelscape.version import __version__
from labelscape.viewer.guard import Guard
from labelscape.viewer.pages import add_page
from labelscape.viewer.training import events, picture_of, runs_in

MOST_STREAMS = 50


def create_watch(folder: Path, *, host: str = "127.0.0.1") -> Guard:
    """The server of a training run's page, as an ASGI application."""
    app = FastAPI(title="Labelscape", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
    add_page(app, "Training")
    streams = 0

    @app.get("/api/runs")
    def runs() -> dict[str, Any]:
        return {"title": printable_name(folder.resolve().name), "runs": runs_in(folder)}

    @app.get("/pictures/{name}.png")
    def picture(name: str) -> Response:
        file = picture_of(folder, name)
        if file is None:
            raise HTTPException(404)
        return Response(file.read_bytes(), media_type="image/png", headers={"cache-control": "no-store"})

    @app.get("/api/stream")
    async def stream() -> Response:
        if streams >= MOST_STREAMS:
            raise HTTPException(503)

        async def counted() -> Any:
            nonlocal streams
            streams += 1
            try:
                async for text in events(folder):
                    yield text
            finally:
                streams -= 1

        return StreamingResponse(
            counted(), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    return Guard(app, host=host)
