"""What those who watch over the server ask: whether it lives, is ready, and what it does."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST

from dia_ort.serve.schemas import Health, Readiness
from dia_ort.serve.service import Service, get_service

router = APIRouter(tags=["probes"])

ServiceDependency = Annotated[Service, Depends(get_service)]


@router.head("/health", include_in_schema=False)
@router.get("/health", responses={500: {"model": Health}})
async def health(response: Response, service: ServiceDependency) -> Health:
    """Whether the process lives; 500 says that it has to be started anew."""
    if service.state == "dead":
        response.status_code = 500
        return Health(status="dead", reason=service.reason)
    return Health(status="ok")


@router.head("/ready", include_in_schema=False)
@router.get("/ready", responses={503: {"model": Readiness}})
async def ready(response: Response, service: ServiceDependency) -> Readiness:
    """Whether it takes requests: not before it has spoken once, and not while it stops."""
    if service.state != "ready":
        response.status_code = 503
    return Readiness(status=service.state)


@router.get("/metrics", response_class=Response)
async def metrics(service: ServiceDependency) -> Response:
    """Counts and times, as Prometheus reads them."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
