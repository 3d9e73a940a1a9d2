"""What a stage shows in the Prefect UI. Outside a run (`task.fn` in a test) nothing is shown."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import TaskRunContext
from prefect.events import emit_event


def show_table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """Attach a table to this task run; `key` is lower case with dashes."""
    if TaskRunContext.get():
        create_table_artifact(key=key, table=[dict(row) for row in rows], description=description)


def show_markdown(key: str, markdown: str, description: str) -> None:
    """Attach a text to this task run; the UI strips inline HTML styles and data: images."""
    if TaskRunContext.get():
        create_markdown_artifact(key=key, markdown=markdown, description=description)


def show_image(key: str, path: Path, description: str) -> None:
    """Attach a PNG to this task run, inlined, since a server cannot read our files."""
    if TaskRunContext.get():
        encoded = base64.b64encode(path.read_bytes()).decode()
        create_image_artifact(
            key=key, image_url=f"data:image/png;base64,{encoded}", description=description
        )


def tell_event(name: str, resource: str, payload: Mapping[str, Any]) -> None:
    """Emit a Prefect event about `resource`, for automations to act on."""
    if TaskRunContext.get():
        emit_event(name, resource={"prefect.resource.id": resource}, payload=dict(payload))


class ProgressArtifact:
    """A percentage in the Prefect UI, told rarely, so that the server is left in peace."""

    def __init__(self, key: str, description: str) -> None:
        self._id: UUID | None = None
        self._percent = 0
        if TaskRunContext.get():
            self._id = create_progress_artifact(  # type: ignore[assignment]
                0.0, key=key, description=description
            )

    def show(self, share: float) -> None:
        """Show `share` of the work, 0 to 1, as done; only every quarter is sent."""
        percent = int(100 * share)
        if self._id is not None and percent >= min(self._percent + 25, 100):
            self._percent = percent
            update_progress_artifact(self._id, float(percent))
