"""The public JSON API: what tells whether the server is there and can work, and the description of all routes."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from fastapi import FastAPI, Response
from pydantic import BaseModel
from sqlalchemy import Connection, text
from starlette.routing import Route

from backend.api.description import describe
from backend.api.services import Services
from drivefs.protocol import routes


class Health(BaseModel):
    """How a client tells a drivefs server from anything else."""

    service: Literal["drivefs"] = "drivefs"
    protocol: int = routes.PROTOCOL
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether requests should be sent here now, and if not, why."""

    status: Literal["ready", "stopping", "failing"]
    reason: str = ""


def make_public_api(services: Services, others: Sequence[Route]) -> FastAPI:
    """The public API over these services; its description tells of the other routes too."""
    # No interactive pages: they would load scripts from elsewhere.
    about: dict[str, Any] = {"title": "drivefs", "summary": "A cloud drive that is a real directory"}
    api = FastAPI(**about, openapi_url=None, docs_url=None, redoc_url=None)

    @cache
    def described() -> dict[str, Any]:
        return describe(api.openapi(), others)

    @api.get(routes.DESCRIPTION, include_in_schema=False)
    async def description() -> dict[str, Any]:
        return described()

    @api.get(routes.HEALTH)
    async def healthz() -> Health:
        """The server answers."""
        return Health()

    @api.get("/readyz", responses={503: {"model": Readiness}})
    async def readyz(response: Response) -> Readiness:
        """The server can do its work: it is not stopping, and its database answers."""
        if services.lifecycle.stopping.is_set():
            response.status_code = 503
            return Readiness(status="stopping")
        try:
            await services.database.read(_touch)
        except Exception as error:
            response.status_code = 503
            return Readiness(status="failing", reason=f"the database: {type(error).__name__}")
        return Readiness(status="ready")

    return api


def _touch(connection: Connection) -> None:
    connection.execute(text("SELECT 1 FROM deployment LIMIT 1")).all()
