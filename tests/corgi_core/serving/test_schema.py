"""Requests that the OpenAPI schema suggests, right and wrong ones, find nothing in the API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from corgi_core.serving.app import Api
from corgi_core.serving.engine import Engine
from corgi_core.serving.metrics import ServingMetrics
from tests.helpers.fake_served import FakeModel

POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
OPERATIONS = {  # the others take nothing that could be wrong
    "POST /v1/images": (POSITIVE, NEGATIVE),
    "DELETE /v1/images/{id}": (POSITIVE, NEGATIVE),
    "GET /v1/images/{id}": (POSITIVE, NEGATIVE),
    "POST /v1/trajectory": (POSITIVE, NEGATIVE),
    "GET /v1/map": (POSITIVE,),
    "GET /v1/model": (POSITIVE,),
    "GET /healthz": (POSITIVE,),
    "GET /readyz": (POSITIVE,),
    "GET /metrics": (POSITIVE,),
}
NOT_IN_A_SCHEMA = [positive_data_acceptance]  # whether base64 is an image, a prompt not blank


@pytest.fixture(scope="module")
def api_schema() -> Iterator[schemathesis.BaseSchema]:
    engine = Engine(FakeModel())
    app = Api(engine, ServingMetrics()).app()
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    engine.stop()


def test_the_schema_has_every_operation(api_schema: schemathesis.BaseSchema) -> None:
    found = [each.ok() for each in api_schema.get_all_operations()]
    assert {operation.label for operation in found} == set(OPERATIONS)


@pytest.mark.parametrize(
    ("label", "mode"), [(label, mode) for label, modes in OPERATIONS.items() for mode in modes]
)
def test_nothing_is_found(
    api_schema: schemathesis.BaseSchema, label: str, mode: GenerationMode
) -> None:
    operations = [each.ok() for each in api_schema.get_all_operations()]
    (operation,) = (each for each in operations if each.label == label)

    @settings(
        max_examples=15, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def answers_as_the_schema_says(case: schemathesis.Case) -> None:
        case.call_and_validate(excluded_checks=NOT_IN_A_SCHEMA)

    answers_as_the_schema_says()
