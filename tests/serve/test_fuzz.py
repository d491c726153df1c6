"""The server against its own OpenAPI document: no answer but those that it names, and no 5xx."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
OPERATIONS = [
    "POST /v1/audio/speech",
    "GET /v1/models",
    "GET /v1/models/{model}",
    "GET /v1/audio/models",
    "GET /v1/audio/voices",
    "POST /v1/audio/voices",
    "DELETE /v1/audio/voices/{voice}",
    "GET /health",
    "GET /ready",
    "GET /metrics",
]


@pytest.fixture(scope="module")
def operations(start):
    with start(max_input=100, max_upload=10_000) as running:
        schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        yield {operation.label: operation for operation in operations}
        assert running.service.admission.num_open == 0
        assert running.service.state == "ready"


def test_all_operations_are_fuzzed(operations):
    assert sorted(operations) == sorted(OPERATIONS)


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        *((label, schemathesis.GenerationMode.POSITIVE) for label in OPERATIONS),
        # The others take nothing that could be wrong.
        ("POST /v1/audio/speech", schemathesis.GenerationMode.NEGATIVE),
        ("POST /v1/audio/voices", schemathesis.GenerationMode.NEGATIVE),
    ],
)
def test_answers_are_those_of_the_document(operations, label, mode):
    @given(operations[label].as_strategy(generation_mode=mode))
    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def answer(case):
        if isinstance(case.body, dict) and label == "POST /v1/audio/speech":
            case.body.setdefault("max_tokens", 60)  # the demo runs on when it is given nonsense
        case.call_and_validate(checks=CHECKS, timeout=60)

    answer()
