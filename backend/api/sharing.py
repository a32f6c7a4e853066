"""The part of the sync API that is about shares and public links.

Owns which route is which call; no rules.
"""

from backend.api.endpoints import Endpoint, Endpoints
from backend.api.services import Services
from drivefs.protocol import links, routes, sharing


def sharing_routes(services: Services) -> dict[str, Endpoint]:
    """All routes about shares and links."""
    make = Endpoints(services)
    return {
        routes.SHARES: make.of_caller(services.shares.known),
        routes.SHARE: make.asked(sharing.ShareRequest, services.shares.share),
        routes.UNSHARE: make.asked(sharing.UnshareRequest, services.shares.unshare),
        routes.INVITATIONS: make.of_caller(services.shares.invitations),
        routes.ANSWER: make.asked(sharing.AnswerRequest, services.shares.answer),
        routes.LINKS: make.of_caller(services.links.known),
        routes.CREATE_LINK: make.asked(links.CreateLinkRequest, services.links.create),
        routes.REVOKE_LINK: make.asked(links.RevokeLinkRequest, services.links.revoke),
    }
