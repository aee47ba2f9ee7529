"""The admin application put together: the one place that opens things and hands them to each other."""

from quart import Blueprint

from admin.edge import EdgeApp, edge_app
from admin.openapi import describe

TITLE = "Consumer Consent Solution: machine API"
VERSION = "1"


def machine_app(*blueprints: Blueprint) -> EdgeApp:
    """The machine listener's application, with its OpenAPI document."""
    app = edge_app("machine")
    describe(app, title=TITLE, version=VERSION)
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    return app
