"""The REST routes, written once against the view."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from xml_pipeline.errors import XmlPipelineError
from xml_pipeline.server import budget_models, models
from xml_pipeline.server.access.guard import Guard
from xml_pipeline.server.access.table import role_of
from xml_pipeline.server.looking.view import StateView
from xml_pipeline.server.models import AgentState
from xml_pipeline.server.parameters import (
    TOP_UP_BODY,
    AgentFilter,
    KeyParameter,
    LetterQueryParameter,
    Name,
    PageParameter,
    SeriesQueryParameter,
    ThreadQueryParameter,
    TopUpParameter,
    TraceParameter,
    WaitParameter,
)
from xml_pipeline.server.problems import (
    BUDGET_EXHAUSTED,
    RETRY_AFTER_SECONDS,
    Problem,
    problem_of,
    problem_response,
    problem_responses,
    validation_problem,
)
from xml_pipeline.server.refusals import unknown_agent, unknown_letter, unknown_thread
from xml_pipeline.server.state import ServerState
from xml_pipeline.server.usage_series import UsageSeriesAnswer
from xml_pipeline.server.view import Inject, OrganismView

PREFIX = "/api/v1"


class _Path(str):
    """A route's path. An app that includes the router under the prefix that the paths have already has it once."""

    __slots__ = ()

    def __radd__(self, prefix: str) -> _Path:
        return _Path(f"{prefix.removesuffix(PREFIX)}{self}")


class ProblemRoute(APIRoute):
    """Answers with problem documents by itself, so that the router works in any app.

    The operation's id is the endpoint's name. Raises UnnamedOperation where no role is set for it.
    """

    guard: ClassVar[Guard | None] = None

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401 - FastAPI's own
        operation = endpoint.__name__
        role_of(operation)
        super().__init__(_Path(path), endpoint, **options | {"operation_id": operation})

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, behind the guard, with the system's errors as documents."""
        handler, guard, operation = super().get_route_handler(), self.guard, self.endpoint.__name__

        async def handle(request: Request) -> Response:
            try:
                if guard is not None:
                    await guard.admit(request.scope["headers"], operation)
                return await handler(request)
            except Problem as problem:
                return problem_response(problem)
            except RequestValidationError as error:
                return problem_response(validation_problem(error))
            except XmlPipelineError as error:
                return problem_response(problem_of(error))

        return handle


def create_router(state: ServerState | OrganismView, *, guard: Guard | None = None) -> APIRouter:
    """Every REST route of the contract, `/health` and all under `/api/v1`, and `/livez` and `/readyz`, for any view.

    An app may include it as it is or under `/api/v1`: the paths are the same. Without a guard nobody needs a key.
    """
    view = StateView(state) if isinstance(state, ServerState) else state
    route_class = type("GuardedRoute", (ProblemRoute,), {"guard": guard})
    router = APIRouter(route_class=route_class, responses=problem_responses(503))
    # Routes are tried in this order: what is asked most comes first.
    _message_routes(router, view)
    _thread_routes(router, view)
    _health_routes(router, view)
    _organism_routes(router, view)
    _agent_routes(router, view)
    _agent_steering(router, view)
    _capability_routes(router, view)
    _budget_routes(router, view)
    _usage_routes(router, view)
    _series_routes(router, view)
    _letter_routes(router, view)
    return router


def _health_routes(router: APIRouter, view: OrganismView) -> None:
    @router.get("/health", tags=["organism"])
    async def health(response: Response) -> models.HealthInfo:
        told = await view.health()
        if told.status != "healthy":
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
            response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return told

    @router.get("/livez", tags=["organism"])
    async def livez() -> models.HealthReport:
        """Whether this process makes progress. One that does not is helped by a restart."""
        return _if_ok(await view.alive(), "not-alive")

    @router.get("/readyz", tags=["organism"])
    async def readyz() -> models.HealthReport:
        """Whether this process serves requests now. One that does not is to get none."""
        return _if_ok(await view.ready(), "not-ready")


def _organism_routes(router: APIRouter, view: OrganismView) -> None:
    @router.get(f"{PREFIX}/organism", tags=["organism"])
    async def organism() -> models.OrganismInfo:
        return await view.organism()

    @router.get(f"{PREFIX}/organism/config", tags=["organism"])
    async def organism_config() -> models.OrganismConfig:
        return await view.config()

    @router.post(f"{PREFIX}/organism/stop", tags=["organism"])
    async def stop() -> models.Success:
        await view.stop()
        return models.Success()

    @router.post(f"{PREFIX}/organism/reload", tags=["organism"])
    async def reload() -> models.ReloadAnswer:
        return await view.reload()


def _if_ok(report: models.HealthReport, code: str) -> models.HealthReport:
    if report.ok:
        return report
    failed = ", ".join(f"{check.name} {check.state}" for check in report.checks if not check.ok)
    members = report.model_dump(by_alias=True)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    raise Problem(503, code, failed or report.phase, headers=headers, members=members)


def _agent_routes(router: APIRouter, view: OrganismView) -> None:
    @router.get(f"{PREFIX}/agents", tags=["agents"])
    async def agents() -> models.AgentList:
        listed = await view.agents()
        return models.AgentList(agents=listed, count=len(listed))

    @router.get(f"{PREFIX}/agents/{{name}}", tags=["agents"], responses=problem_responses(404))
    async def agent(name: Name) -> models.AgentInfo:
        return await _found(view, name)

    @router.get(f"{PREFIX}/agents/{{name}}/config", tags=["agents"], responses=problem_responses(404))
    async def agent_config(name: Name) -> models.AgentConfig:
        return models.AgentConfig(**(await _found(view, name)).model_dump(include=set(models.AgentConfig.model_fields)))

    @router.get(f"{PREFIX}/agents/{{name}}/schema", tags=["agents"], responses=problem_responses(404))
    async def agent_schema(name: Name) -> models.SchemaAnswer:
        capability = await view.capability(name)
        if capability is None:
            raise unknown_agent(name)
        if capability.schema_xsd is None:
            raise Problem(404, "no-schema", f"{name} has no schema: it takes any payload")
        return models.SchemaAnswer(schema=capability.schema_xsd)


def _agent_steering(router: APIRouter, view: OrganismView) -> None:
    @router.post(f"{PREFIX}/agents/{{name}}/pause", tags=["agents"], responses=problem_responses(404))
    async def pause(name: Name) -> models.AgentStateAnswer:
        if not await view.pause(name):
            raise unknown_agent(name)
        return models.AgentStateAnswer(state=AgentState.PAUSED)

    @router.post(f"{PREFIX}/agents/{{name}}/resume", tags=["agents"], responses=problem_responses(404))
    async def resume(name: Name) -> models.AgentStateAnswer:
        if not await view.resume(name):
            raise unknown_agent(name)
        return models.AgentStateAnswer(state=AgentState.IDLE)


async def _found(view: OrganismView, name: str) -> models.AgentInfo:
    agent = await view.agent(name)
    if agent is None:
        raise unknown_agent(name)
    return agent


def _capability_routes(router: APIRouter, view: OrganismView) -> None:
    @router.get(f"{PREFIX}/capabilities", tags=["capabilities"])
    async def capabilities() -> models.CapabilityList:
        listed = await view.capabilities()
        return models.CapabilityList(capabilities=listed, count=len(listed))

    @router.get(f"{PREFIX}/capabilities/{{name}}", tags=["capabilities"], responses=problem_responses(404))
    async def capability(name: Name) -> models.CapabilityDetail:
        found = await view.capability(name)
        if found is None:
            raise Problem(404, "unknown-capability", f"unknown capability: {name!r}")
        return found


def _thread_routes(router: APIRouter, view: OrganismView) -> None:
    async def found(thread_id: str) -> models.ThreadInfo:
        thread = await view.thread(thread_id)
        if thread is None:
            raise unknown_thread(thread_id)
        return thread

    @router.get(f"{PREFIX}/threads", tags=["threads"], responses=problem_responses(400, 422))
    async def threads(query: ThreadQueryParameter, page: PageParameter) -> models.ThreadPage:
        listed, total = await view.threads(query, page)
        return models.ThreadPage(threads=listed, count=len(listed), total=total, offset=page.offset, limit=page.limit)

    @router.get(f"{PREFIX}/threads/{{thread_id}}", tags=["threads"], responses=problem_responses(404))
    async def thread(thread_id: Name) -> models.ThreadInfo:
        return await found(thread_id)

    @router.get(f"{PREFIX}/threads/{{thread_id}}/messages", tags=["threads"], responses=problem_responses(404, 422))
    async def thread_messages(thread_id: Name, page: PageParameter) -> models.MessagePage:
        await found(thread_id)
        listed, total = await view.messages(thread_id, None, page)
        return models.MessagePage(messages=listed, count=len(listed), total=total, offset=page.offset, limit=page.limit)

    @router.post(f"{PREFIX}/threads/{{thread_id}}/kill", tags=["threads"], responses=problem_responses(404))
    async def kill(thread_id: Name) -> models.KillAnswer:
        if not await view.kill(thread_id):
            raise unknown_thread(thread_id)
        return models.KillAnswer(thread_id=thread_id)


def _message_routes(router: APIRouter, view: OrganismView) -> None:
    @router.post(
        f"{PREFIX}/inject",
        tags=["messages"],
        response_model_exclude_none=True,
        responses=problem_responses(400, 409, 413, 422, 429) | BUDGET_EXHAUSTED,
    )
    async def inject(
        request: models.InjectRequest,
        response: Response,
        key: KeyParameter,
        wait: WaitParameter,
        traceparent: TraceParameter = None,
    ) -> models.InjectAnswer:
        if wait:
            response.headers["Preference-Applied"] = f"wait={wait:.0f}"
        about = (request.to, request.payload, request.thread_id)
        return await view.inject(Inject(*about, key, wait, request.tags, traceparent))

    @router.get(f"{PREFIX}/messages", tags=["messages"], responses=problem_responses(422))
    async def messages(page: PageParameter, agent: AgentFilter = None) -> models.MessagePage:
        listed, total = await view.messages(None, agent, page)
        return models.MessagePage(messages=listed, count=len(listed), total=total, offset=page.offset, limit=page.limit)


def _budget_routes(router: APIRouter, view: OrganismView) -> None:
    @router.get(f"{PREFIX}/usage/threads", tags=["usage"])
    async def budgets() -> models.ThreadBudgets:
        return await view.usage.budgets()

    @router.get(
        f"{PREFIX}/usage/threads/{{thread_id}}",
        tags=["usage"],
        response_model_exclude_unset=True,
        responses=problem_responses(404),
    )
    async def budget(thread_id: Name) -> budget_models.ThreadBudgetDetail:
        found = await view.usage.budget(thread_id)
        if found is None:
            raise Problem(404, "no-budget", f"thread {thread_id!r} has no budget yet")
        return found

    @router.post(
        f"{PREFIX}/usage/threads/{{thread_id}}/top-up",
        tags=["usage"],
        response_model_exclude_unset=True,
        responses=problem_responses(400, 404, 409, 422),
        openapi_extra=TOP_UP_BODY,
    )
    async def top_up(thread_id: Name, request: TopUpParameter, key: KeyParameter) -> budget_models.ThreadBudgetDetail:
        """Give a thread more tokens; what is parked for want of them goes on."""
        budget = await view.usage.top_up(thread_id, request.tokens, key)
        if budget is None:
            raise unknown_thread(thread_id)
        return budget

    @router.get(f"{PREFIX}/usage/budgets", tags=["usage"])
    async def shared_budgets() -> budget_models.SharedBudgets:
        return await view.usage.shared_budgets()


def _usage_routes(router: APIRouter, view: OrganismView) -> None:
    @router.get(f"{PREFIX}/usage", tags=["usage"])
    async def usage() -> models.UsageAnswer:
        return models.UsageAnswer(usage=await view.usage.overview())

    @router.get(f"{PREFIX}/usage/agents/{{agent_id}}", tags=["usage"])
    async def agent_usage(agent_id: Name) -> models.AgentUsage:
        return await view.usage.agent(agent_id)

    # 404: a path with a line break is no model's.
    @router.get(f"{PREFIX}/usage/models/{{model:path}}", tags=["usage"], responses=problem_responses(404))
    async def model_usage(model: Name) -> models.ModelUsage:
        return await view.usage.model(model)

    @router.post(f"{PREFIX}/usage/reset", tags=["usage"])
    async def reset() -> models.Success:
        await view.usage.reset()
        return models.Success()


def _series_routes(router: APIRouter, view: OrganismView) -> None:
    @router.get(f"{PREFIX}/usage/timeseries", tags=["usage"], responses=problem_responses(400))
    async def timeseries(query: SeriesQueryParameter) -> UsageSeriesAnswer:
        return await view.usage.timeseries(query)


def _letter_routes(router: APIRouter, view: OrganismView) -> None:
    path = f"{PREFIX}/dead-letters"

    @router.get(path, tags=["dead letters"], responses=problem_responses(422))
    async def dead_letters(query: LetterQueryParameter, page: PageParameter) -> models.DeadLetterPage:
        listed, total = await view.letters.list(query, page)
        return models.DeadLetterPage(
            dead_letters=listed, count=len(listed), total=total, offset=page.offset, limit=page.limit
        )

    @router.get(f"{path}/{{letter_id}}", tags=["dead letters"], responses=problem_responses(404))
    async def dead_letter(letter_id: Name) -> models.DeadLetterDetail:
        found = await view.letters.get(letter_id)
        if found is None:
            raise unknown_letter(letter_id)
        return found

    @router.post(
        f"{path}/{{letter_id}}/redrive", tags=["dead letters"], responses=problem_responses(400, 404, 409, 413, 422)
    )
    async def redrive(letter_id: Name, request: models.RedriveRequest | None = None) -> models.RedriveAnswer:
        answer = await view.letters.redrive(letter_id, request.payload if request else None)
        if answer is None:
            raise unknown_letter(letter_id)
        return answer

    @router.delete(f"{path}/{{letter_id}}", tags=["dead letters"], responses=problem_responses(404, 409))
    async def delete(letter_id: Name) -> models.Success:
        if not await view.letters.delete(letter_id):
            raise unknown_letter(letter_id)
        return models.Success()
