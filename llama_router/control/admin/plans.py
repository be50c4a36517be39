"""The route ``/admin/plan``: which models fit with which; it needs the token."""

from __future__ import annotations

from quart import Blueprint, Response, request

from ..web.context import ControlContext
from ..web.guard import answer
from . import model_schemas
from .memory import describe_plan
from .openapi import Query, describe
from .routes import spec_of


def blueprint(context: ControlContext) -> Blueprint:
    """Return the route."""
    routes = Blueprint("plans", __name__, url_prefix="/admin")
    dispatcher = context.dispatcher

    @routes.get("/plan")
    @describe(
        "What would happen if models were loaded one after the other, all others idle.",
        answer=model_schemas.Plan,
        errors=(404,),
        query=[
            Query(
                name="model",
                schema={"type": "string"},
                about="The name of a model; again for each further one. Without: each alone.",
            )
        ],
    )
    async def plan() -> Response:
        models = [spec_of(context, name).id for name in request.args.getlist("model")]
        return answer(
            describe_plan(
                dispatcher.config,
                context.memory.view,
                context.memory.faults,
                dispatcher.residents(),
                models,
            )
        )

    return routes
