"""The part of the sync API that is about notifications.

Owns which route is which call; no rules.
"""

from backend.api.endpoints import Endpoint, Endpoints
from backend.api.services import Services
from drivefs.protocol import notifications, routes


def telling_routes(services: Services) -> dict[str, Endpoint]:
    """All routes about notifications."""
    make = Endpoints(services)
    return {
        routes.NOTIFICATIONS: make.asked(notifications.NotificationsRequest, services.notifications.list),
        routes.MUTE: make.asked(notifications.MuteRequest, services.notifications.mute),
        routes.MUTED: make.of_caller(services.notifications.muted),
        routes.ACTIVITY: make.asked(notifications.ActivityRequest, services.activity.read),
    }
