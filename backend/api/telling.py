"""The part of the sync API that is about notifications.

Owns the way from a request to a service call and back; no rules.
"""

from starlette.types import Receive, Scope

from backend.api import requests
from backend.api.endpoints import Empty, Endpoint
from backend.api.services import Services
from drivefs.protocol import notifications, routes


class TellingApi:
    """Binds routes to the service."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def endpoints(self) -> dict[str, Endpoint]:
        """All routes about notifications."""
        return {
            routes.NOTIFICATIONS: Endpoint(self._list),
            routes.MUTE: Endpoint(self._mute),
            routes.MUTED: Endpoint(self._muted),
            routes.ACTIVITY: Endpoint(self._activity),
        }

    async def _list(self, scope: Scope, receive: Receive) -> notifications.NotificationsReply:
        caller = await requests.caller(scope, self._services)
        request = await requests.message(scope, receive, notifications.NotificationsRequest)
        return await self._services.notifications.list(caller, request)

    async def _mute(self, scope: Scope, receive: Receive) -> Empty:
        caller = await requests.caller(scope, self._services)
        request = await requests.message(scope, receive, notifications.MuteRequest)
        await self._services.notifications.mute(caller, request)
        return Empty()

    async def _muted(self, scope: Scope, receive: Receive) -> notifications.MutedReply:
        return await self._services.notifications.muted(await requests.caller(scope, self._services))

    async def _activity(self, scope: Scope, receive: Receive) -> notifications.ActivityReply:
        caller = await requests.caller(scope, self._services)
        request = await requests.message(scope, receive, notifications.ActivityRequest)
        return await self._services.activity.read(caller, request)
