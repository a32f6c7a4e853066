"""The public JSON API, with its description: so far what tells whether the server is there and can work."""

from typing import Literal

from fastapi import FastAPI, Response
from pydantic import BaseModel
from sqlalchemy import Connection, text

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


def make_public_api(services: Services) -> FastAPI:
    """The public API over these services."""
    # No interactive pages: they would load scripts from elsewhere.
    api = FastAPI(title="drivefs", summary="A cloud drive that is a real directory", docs_url=None, redoc_url=None)

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
