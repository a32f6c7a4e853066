"""The part of the sync API that is about shares and public links.

Owns the way from a request to a service call and back; no rules.
"""

from starlette.types import Receive, Scope

from backend.api import requests
from backend.api.endpoints import Empty, Endpoint
from backend.api.services import Services
from drivefs.protocol import links, routes, sharing


class SharingApi:
    """Binds routes to the service."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def endpoints(self) -> dict[str, Endpoint]:
        """All routes about shares and links."""
        return {
            routes.SHARES: Endpoint(self._list),
            routes.SHARE: Endpoint(self._share),
            routes.UNSHARE: Endpoint(self._unshare),
            routes.INVITATIONS: Endpoint(self._invitations),
            routes.ANSWER: Endpoint(self._answer),
            routes.LINKS: Endpoint(self._links),
            routes.CREATE_LINK: Endpoint(self._create_link),
            routes.REVOKE_LINK: Endpoint(self._revoke_link),
        }

    async def _list(self, scope: Scope, receive: Receive) -> sharing.SharesReply:
        return await self._services.shares.known(await requests.caller(scope, self._services))

    async def _share(self, scope: Scope, receive: Receive) -> sharing.ShareInfo:
        caller = await requests.caller(scope, self._services)
        request = await requests.message(scope, receive, sharing.ShareRequest)
        return await self._services.shares.share(caller, request)

    async def _unshare(self, scope: Scope, receive: Receive) -> Empty:
        caller = await requests.caller(scope, self._services)
        await self._services.shares.unshare(caller, await requests.message(scope, receive, sharing.UnshareRequest))
        return Empty()

    async def _invitations(self, scope: Scope, receive: Receive) -> sharing.InvitationsReply:
        return await self._services.shares.invitations(await requests.caller(scope, self._services))

    async def _answer(self, scope: Scope, receive: Receive) -> Empty:
        caller = await requests.caller(scope, self._services)
        await self._services.shares.answer(caller, await requests.message(scope, receive, sharing.AnswerRequest))
        return Empty()

    async def _links(self, scope: Scope, receive: Receive) -> links.LinksReply:
        return await self._services.links.known(await requests.caller(scope, self._services))

    async def _create_link(self, scope: Scope, receive: Receive) -> links.LinkReply:
        caller = await requests.caller(scope, self._services)
        return await self._services.links.create(
            caller, await requests.message(scope, receive, links.CreateLinkRequest)
        )

    async def _revoke_link(self, scope: Scope, receive: Receive) -> Empty:
        caller = await requests.caller(scope, self._services)
        await self._services.links.revoke(caller, await requests.message(scope, receive, links.RevokeLinkRequest))
        return Empty()
