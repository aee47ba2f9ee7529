"""The machine API described by itself: OpenAPI 3.1 from the very structs that the views read and write.

quart-schema turns msgspec structs into schemas; here stands what it leaves out: problem answers, required bodies and
headers, and that no member may be null. Its documentation pages load scripts from elsewhere and stay off.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Literal, TypeVar

import msgspec
from quart import Quart
from quart_schema import QuartSchema, document_querystring, document_request, document_response
from quart_schema.openapi import OpenAPIProvider, SecuritySchemeBase
from werkzeug.routing import Rule

from admin.edge import PROBLEM_JSON, Problem
from admin.writing import IdempotencyKey

Schemas = tuple[dict[str, Any], dict[str, Any]]  # a schema or document part, and the components it names
V = TypeVar("V", bound=Callable[..., Any])

PATH: Final = "/openapi.json"
_PROBLEMS: Final = "_ccs_problems"
_KEYED: Final = "_ccs_idempotency_key"
_EMPTY: Final = "_ccs_empty_answers"
_ALWAYS: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE)
_OF_BODIES: Final = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)


def operation(
    *,
    answers: Mapping[int, Any],
    problems: tuple[int, ...] = (),
    body: type[msgspec.Struct] | None = None,
    query: type[msgspec.Struct] | None = None,
    keyed: bool = False,
) -> Callable[[V], V]:
    """Describe a view. problems: statuses beside those of every call and of every body; keyed: needs the header.

    answers: by status the struct, or the union, that is sent; None = nothing is.
    """

    def described(view: V) -> V:
        for status, model in answers.items():
            view = view if model is None else document_response(model, status)(view)
        if body is not None:
            view = document_request(body)(view)
        if query is not None:
            view = document_querystring(query)(view)
        own = (*_ALWAYS, *problems, *(_OF_BODIES if body is not None else ()))
        setattr(view, _PROBLEMS, tuple(sorted({int(status) for status in own})))
        setattr(view, _KEYED, keyed)
        setattr(view, _EMPTY, tuple(int(status) for status, model in answers.items() if model is None))
        return view

    return described


class _Provider(OpenAPIProvider):
    """Only described views, and all that can come of them. Schemas are msgspec's own: quart-schema loses inner ones."""

    def generate_rules(self) -> Any:  # noqa: ANN401 - quart-schema's own signature
        return (rule for rule in super().generate_rules() if hasattr(self._view(rule), _PROBLEMS))

    def build_paths(self, rule: Rule) -> Schemas:
        paths, components = super().build_paths(rule)
        view = self._view(rule)
        problem, definitions = _schema_of(Problem)
        for path in paths.values():
            for described in path.values():
                described["operationId"] = rule.endpoint.replace(".", "_")
                described["description"] = described.get("description", "").strip()
                described["responses"].update({status: _response(status, problem) for status in _problems_of(view)})
                described["responses"].update({status: _empty(status) for status in getattr(view, _EMPTY)})
                if getattr(view, _KEYED):
                    described["parameters"] = [*described["parameters"], _key_header()]
        return paths, {**components, **definitions}

    def build_request_body(self, model: Any, source: Any) -> Schemas:  # noqa: ANN401, ARG002 - quart-schema's own signature
        schema, definitions = _schema_of(model)
        _forbid_null(definitions)
        return {"content": {"application/json": {"schema": schema}}, "required": True}, definitions

    def build_response_object(self, model: Any, headers_model: Any) -> Schemas:  # noqa: ANN401, ARG002 - quart-schema's own signature
        schema, definitions = _schema_of(model)
        content_type = getattr(model, "content_type", "application/json")
        words = (model.__doc__ or "") if isinstance(model, type) else ""
        return {"description": words, "content": {content_type: {"schema": schema}}}, definitions

    def build_querystring_parameters(self, model: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:  # noqa: ANN401 - quart-schema's own signature
        _, definitions = _schema_of(model)
        described = definitions[model.__name__]
        required = described.get("required", ())
        return [
            {"name": name, "in": "query", "schema": schema, **({"required": True} if name in required else {})}
            for name, schema in described["properties"].items()
        ], {}

    def _view(self, rule: Rule) -> Any:  # noqa: ANN401 - any callable
        return self._app.view_functions[rule.endpoint]


def describe(app: Quart, *, title: str, version: str) -> None:
    """Serve the document of an application's described views at PATH."""
    QuartSchema(
        app,
        openapi_path=PATH,
        redoc_ui_path=None,
        scalar_ui_path=None,
        swagger_ui_path=None,
        info={"title": title, "version": version},
        security_schemes={"certificate": _MutualTls()},
        security=[{"certificate": []}],
        conversion_preference="msgspec",
        openapi_provider_class=_Provider,
    )


@dataclass
class _MutualTls(SecuritySchemeBase):
    """OpenAPI 3.1's `mutualTLS` security scheme; quart-schema has none of its own."""

    description: str | None = "A registered transport certificate."
    type: Literal["mutualTLS"] = "mutualTLS"


def _problems_of(view: Any) -> tuple[int, ...]:  # noqa: ANN401 - any callable
    statuses: tuple[int, ...] = getattr(view, _PROBLEMS)
    return statuses


def _schema_of(model: Any) -> Schemas:  # noqa: ANN401 - a struct, or a union with one in it
    """A reference to a struct's schema, and the schemas of all the structs it takes."""
    (schema,), definitions = msgspec.json.schema_components([model], ref_template="#/components/schemas/{name}")
    return schema, dict(definitions)


def _response(status: int, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase, "content": {PROBLEM_JSON: {"schema": schema}}}


def _empty(status: int) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase}


def _key_header() -> dict[str, Any]:
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "description": "The caller's own name for this write: repeated with the same body, it gets the same answer.",
        "schema": msgspec.json.schema(IdempotencyKey),
    }


def _forbid_null(schema: Any) -> None:  # noqa: ANN401 - walks a JSON document
    """An optional member is left out, never null: what `X | None` says in Python is not what the wire takes."""
    if isinstance(schema, list):
        for item in schema:
            _forbid_null(item)
    elif isinstance(schema, dict):
        choices = schema.get("anyOf")
        if isinstance(choices, list) and {"type": "null"} in choices:
            rest = [choice for choice in choices if choice != {"type": "null"}]
            schema.pop("anyOf")
            schema.update(rest[0] if len(rest) == 1 else {"anyOf": rest})
            if schema.get("default", ...) is None:
                schema.pop("default")
        for value in list(schema.values()):
            _forbid_null(value)
