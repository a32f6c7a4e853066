"""The description of all that the server answers, as OpenAPI; derived from the routes and the types of their messages.

Owns how a route becomes an operation; says nothing that the code does not say. Bytes have no type in JSON: where a
schema says base64, the MessagePack message has the bytes themselves, as `bin`.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.routing import Route

from backend.api.downloads import Downloads
from backend.api.endpoints import Framed, Shape
from drivefs.protocol import routes
from drivefs.protocol.ids import MAX_ID
from drivefs.protocol.messages import Problem

OCTETS = {"type": "string", "format": "binary"}
PLACE = "#/components/schemas/{name}"
PARAMETERS = {
    "workspace": {"type": "integer", "minimum": 0, "maximum": MAX_ID},
    "token": {"type": "string", "minLength": 1},
}
"""What may stand where an address has a name in braces."""
BEARER = {"bearer": {"type": "http", "scheme": "bearer", "description": "The token that a login gives to a device."}}
BASIC = {"link": {"type": "http", "scheme": "basic", "description": "A link's password; any user name will do."}}


def describe(document: dict[str, Any], found: Sequence[Route]) -> dict[str, Any]:
    """A description with all these routes added to it."""
    shaped = [(route, shape) for route in found if (shape := getattr(route.endpoint, "shape", None))]
    named = [kind for _, shape in shaped for kind in (shape.asks, shape.gives) if kind not in (None, Framed)]
    schemas, components = msgspec.json.schema_components([*named, Problem], ref_template=PLACE)
    of_type = dict(zip([*named, Problem], schemas, strict=True))
    paths = dict(document["paths"])
    for route, shape in shaped:
        paths[route.path] = {"post": _operation(route, shape, of_type)}
    for route in found:
        if isinstance(route.endpoint, Downloads):
            paths[route.path] = {method.lower(): _download(route, method) for method in sorted(route.methods or ())}
    known = document.get("components", {})
    return {
        **document,
        "paths": paths,
        "components": {
            **known,
            "schemas": {**known.get("schemas", {}), **components},
            "securitySchemes": {**BEARER, **BASIC},
        },
    }


def _operation(route: Route, shape: Shape, of_type: dict[Any, Any]) -> dict[str, Any]:
    """A route of the sync API."""
    made: dict[str, Any] = {
        "operationId": route.path.removeprefix("/sync/v1/").replace("/", "_").replace("{workspace}", "of"),
        "parameters": _parameters(route),
        "responses": {
            "200": {"description": "It was done.", "content": _content(shape.gives, of_type)},
            "default": {"description": "It was refused.", "content": _content(Problem, of_type)},
        },
        "security": [] if shape.is_open else [{"bearer": []}],
    }
    if shape.asks is not None:
        made["requestBody"] = {"required": True, "content": _content(shape.asks, of_type)}
    return made


def _content(kind: type, of_type: dict[Any, Any]) -> dict[str, Any]:
    return {routes.FRAMED: {"schema": OCTETS}} if kind is Framed else {routes.MSGPACK: {"schema": of_type[kind]}}


def _download(route: Route, method: str) -> dict[str, Any]:
    """A route of the public links."""
    kinds = ("application/octet-stream", "application/x-tar")
    return {
        "operationId": f"link_{method.lower()}",
        "parameters": _parameters(route),
        "responses": {
            "200": {"description": "A file, or a folder as an archive.", "content": {kind: {} for kind in kinds}},
            "default": {"description": "It was refused.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        },
        "security": [{}, {"link": []}],
    }


def _parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": PARAMETERS[name]}
        for name in sorted(route.param_convertors)
    ]
