"""The HTTP interface: a FastAPI application that asks a model."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from adar_ray.documents import in_words
from adar_ray.errors import AdarError, one_line
from adar_ray.inference.recommender import Scored, UnknownIdError
from adar_ray.limits import LONGEST_LIST, MOST_ASKED, MOST_BODY
from adar_ray.serving.served_model import ServedModel

NO_JSON = "the body is not a JSON object with the header Content-Type: application/json"
MOST_WAITING = 1_000  # requests, beyond which others are refused


def _as_text(id: Any) -> Any:
    return str(id) if isinstance(id, int) and not isinstance(id, bool) else id


def _no_truth(number: Any) -> Any:
    if isinstance(number, bool):
        raise ValueError("give a whole number")
    return number


Id = Annotated[
    str,
    BeforeValidator(_as_text),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
]
Ids = Annotated[list[Id], Field(max_length=LONGEST_LIST)]
K = Annotated[int, Field(ge=1, le=MOST_ASKED, description="How many."), BeforeValidator(_no_truth)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RecommendRequest(_Message):
    """Whom to recommend items to: a user, several, or somebody with a history."""

    user: Id | None = Field(None, description="A user.")
    users: list[Id] | None = Field(None, max_length=MOST_ASKED, description="Several users.")
    history: Ids | None = Field(
        None, min_length=1, description="What somebody new has interacted with, oldest first."
    )
    k: K = 20
    exclude_seen: bool = Field(True, description="Leave out what the user has interacted with.")
    candidates: Ids | None = Field(None, description="The items to choose from; all by default.")

    @model_validator(mode="after")
    def _one_question(self) -> RecommendRequest:
        asked = (self.user, self.users, self.history)
        if sum(one is not None for one in asked) != 1:
            raise ValueError("give exactly one of user, users and history")
        if len(self.users or ()) * self.k > LONGEST_LIST:
            raise ValueError(f"ask for at most {LONGEST_LIST:,} items in all: for fewer users, or a lower k")
        return self


class SimilarRequest(_Message):
    """What to find others like: an item or a user."""

    item: Id | None = Field(None, description="An item, for the items most similar to it.")
    user: Id | None = Field(None, description="A user, for the users most similar to this one.")
    k: K = 20

    @model_validator(mode="after")
    def _one_question(self) -> SimilarRequest:
        if (self.item is None) == (self.user is None):
            raise ValueError("give exactly one of item and user")
        return self


class Entry(BaseModel):
    """An item or a user, and its score."""

    id: str
    score: float


class Recommendations(BaseModel):
    """Items for one user, best first.

    Attributes:
        user: null for somebody with a history.
        items: null for one of several users whom the model does not know.
    """

    user: str | None
    items: list[Entry] | None


class RecommendAnswer(BaseModel):
    """Items for each user, in the order asked.

    Attributes:
        model: the version of the model that answers.
    """

    model: str
    answers: list[Recommendations]


class SimilarAnswer(BaseModel):
    """Items or users, most similar first; the score is the cosine."""

    model: str
    similar: list[Entry]


class Health(BaseModel):
    """What is served.

    Attributes:
        items: of the dataset.
        new_items: those beside them that were not there in training.
        problem: why the model that is in the folder now is not served; null if it is.
    """

    model: str
    users: int
    items: int
    new_items: int
    problem: str | None


class Problem(BaseModel):
    """What is wrong with a request, in one line."""

    detail: str


def make_app(model: ServedModel) -> FastAPI:
    """The application.

    Args:
        model: answers; each request by the version that is current when it comes.
    """
    # No page that tries requests out: it would fetch its scripts from elsewhere.
    app = FastAPI(
        title="adar-ray",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={status: {"model": Problem} for status in (400, 404, 411, 413, 422, 503)},
    )
    app.add_middleware(_Bounded)

    @app.post("/recommend")
    def recommend(request: RecommendRequest) -> RecommendAnswer:
        """The top k items for a user, for each of several, or for somebody with a history."""
        version = model.current
        options = request.model_dump(include={"k", "exclude_seen", "candidates"})
        if request.history is not None:
            items = version.recommender.recommend(history=request.history, **options)
            found = [Recommendations(user=None, items=_entries(items))]
        elif request.user is not None:
            items = version.recommender.recommend(request.user, **options)
            found = [Recommendations(user=request.user, items=_entries(items))]
        else:
            users = request.users or []
            asked = [user for user in users if version.recommender.knows(user)]
            known = {
                user: _entries(items)
                for user, items in version.recommender.recommend(asked, **options).items()
            }
            found = [Recommendations(user=user, items=known.get(user)) for user in users]
        return RecommendAnswer(model=version.name, answers=found)

    @app.get("/similar", dependencies=[Depends(_no_parameter_twice)])
    def similar(request: Annotated[SimilarRequest, Query()]) -> SimilarAnswer:
        """The k items, or users, whose vectors have the highest cosine with that of one."""
        version = model.current
        if request.user is not None:
            found = version.recommender.similar_users(request.user, request.k)
        else:
            found = version.recommender.similar_items(request.item or "", request.k)
        return SimilarAnswer(model=version.name, similar=_entries(found))

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    def health() -> Health:
        """What is served."""
        version = model.current
        trained = version.recommender.trained
        dataset = trained.dataset
        return Health(
            model=version.name,
            users=dataset.n_users,
            items=dataset.n_items,
            new_items=trained.n_items - dataset.n_items,
            problem=model.problem,
        )

    @app.exception_handler(RequestValidationError)
    def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        return _problem(422, "; ".join(map(_line, error.errors())))

    @app.exception_handler(HTTPException)
    def refuse_path(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # it is about the body: numbers of very many digits, bad UTF-8
            return _problem(422, f"request: {NO_JSON}")
        what = f"{request.method} {one_line(request.url.path, 100)}"
        return _problem(error.status_code, f"{what}: is not an endpoint; GET /openapi.json lists them")

    @app.exception_handler(UnknownIdError)
    def not_found(request: Request, error: UnknownIdError) -> JSONResponse:
        remedy = "give an id of its dataset"
        if error.kind == "user":
            remedy += ", or a new user's items as history"
        return _problem(404, f"the model does not know the {error.kind} {error.key!r}; {remedy}")

    @app.exception_handler(AdarError)
    def fail(request: Request, error: AdarError) -> JSONResponse:
        return _problem(400, str(error))

    return app


class _Bounded:
    """Refuses requests while very many wait, and those whose bodies are very long, before they are read.

    Connections on which nobody asks anything do not count.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._waiting = app, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if self._waiting >= MOST_WAITING:
                app = _problem(503, f"{MOST_WAITING:,} requests are waiting; try again later")
            elif "transfer-encoding" in headers:
                app = _problem(411, "body: its length is not known; send a Content-Length")
            elif int(headers.get("content-length", 0)) > MOST_BODY:
                app = _problem(413, f"body: give at most {MOST_BODY:,} bytes")
        self._waiting += 1
        try:
            await app(scope, receive, send)
        finally:
            self._waiting -= 1


def _no_parameter_twice(request: Request) -> None:
    for name in request.query_params:
        if len(request.query_params.getlist(name)) > 1:
            error = {"type": "value_error", "loc": ("query", name), "msg": "give it once"}
            raise RequestValidationError([error])


def _entries(scored: list[Scored]) -> list[Entry]:
    return [Entry(id=id, score=score) for id, score in scored]


def _problem(status: int, line: str) -> JSONResponse:
    return JSONResponse(Problem(detail=line).model_dump(), status)


def _line(error: dict[str, Any]) -> str:
    """A field, and what is wrong with it."""
    if error["type"] == "json_invalid" or (error["loc"] == ("body",) and error["type"] != "value_error"):
        return f"request: {NO_JSON}"
    field = ".".join(str(part) for part in error["loc"][1:])
    return f"{field or 'request'}: {in_words(error)}"
