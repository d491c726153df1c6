"""The server's logs: one record, one line, and no text of users."""

import json
import logging
import re
import sys
import warnings

import pytest

from dia_ort.serve.logs import configure_logging, request_id, text_field
from dia_ort.serve.settings import ServerSettings
from support.logs import kept_logging

FORGED = "a\n2026-01-01T00:00:00.000Z ERROR b\r\x85\u2028\x1b[31m c"
logger = logging.getLogger("dia_ort.test")


@pytest.fixture(autouse=True)
def logging_is_kept():
    with kept_logging():
        yield


@pytest.fixture
def lines(capsys):
    """Configures logging; returns what reads the lines that came since."""

    def read():
        return capsys.readouterr().err.splitlines()

    def configure(**settings):
        configure_logging(ServerSettings(**settings))
        return read

    return configure


def log_error(message):
    try:
        int(message)
    except ValueError:
        logger.exception("failed")


def test_json(lines):
    read = lines()
    logger.info("spoke %s", "well", extra={"seconds": 1.5, "who": ["S1", "S2"]})
    [line] = read()
    record = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("time"))
    assert record == {
        "level": "info",
        "logger": "dia_ort.test",
        "message": "spoke well",
        "seconds": 1.5,
        "who": ["S1", "S2"],
    }


def test_text(lines):
    read = lines(log_format="text")
    logger.warning("spoke", extra={"seconds": 1.5, "voice": "ann", "words": "a b", "on": None})
    [line] = read()
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert rest == 'WARNING dia_ort.test spoke seconds=1.5 voice=ann words="a b" on=null'


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_the_request_is_named(lines, log_format):
    read = lines(log_format=log_format)
    token = request_id.set("r-1")
    logger.info("within")
    request_id.reset(token)
    logger.info("without")
    within, without = read()
    assert "r-1" in within
    assert "request_id" not in without


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_line_can_be_forged(lines, log_format):
    read = lines(log_format=log_format)
    request_id.set(FORGED)
    logger.info(FORGED, extra={"voice": FORGED, "all": [FORGED]})
    logger.info("%s", FORGED)
    log_error(FORGED)
    request_id.set(None)
    written = read()
    assert len(written) == 3
    assert all(line.isprintable() for line in written)


def test_values_cannot_forge_fields(lines):
    read = lines(log_format="text")
    logger.info("spoke", extra={"voice": "ann status=200", "quote": '"', "back": "\\"})
    [line] = read()
    assert line.endswith(r'voice="ann status=200" quote="\"" back="\\"')


def test_errors_have_their_traceback(lines):
    read = lines()
    log_error("broken")
    [line] = read()
    error = json.loads(line)["error"]
    assert error.startswith("Traceback (most recent call last):\n")
    assert error.endswith("ValueError: invalid literal for int() with base 10: 'broken'")


def test_json_is_valid_whatever_is_logged(lines):
    read = lines()
    logger.info("odd", extra={"inf": float("inf"), "nan": float("nan"), "what": object, "b": b"x"})
    [line] = read()
    assert json.loads(line, parse_constant=pytest.fail)["inf"] == "inf"


def test_levels(lines):
    read = lines(log_level="warning")
    logger.info("quiet")
    logger.warning("loud")
    assert [json.loads(line)["message"] for line in read()] == ["loud"]


def test_uvicorn_and_warnings_come_in_the_same_form(lines):
    read = lines()
    logging.getLogger("uvicorn.error").info("up %s", 1, extra={"color_message": "\x1b[1mup %s"})
    logging.getLogger("uvicorn.access").info("GET /")
    warnings.warn("careful", UserWarning, stacklevel=1)
    up, careful = (json.loads(line) for line in read())
    assert up["message"] == "up 1"
    assert "color_message" not in up
    assert careful["logger"] == "py.warnings"
    assert careful["message"] == "careful"
    assert careful["category"] == "UserWarning"
    assert careful["source"].startswith(f"{__file__}:")


def test_uvicorn_sees_that_nobody_wants_its_log_of_requests(lines):
    lines()
    assert not logging.getLogger("uvicorn.access").hasHandlers()


def test_configuring_again_replaces(lines):
    lines()
    read = lines(log_format="text")
    logger.info("once")
    assert len(read()) == 1
    assert logging.getLogger().handlers[0].stream is sys.stderr


def test_text_is_only_logged_if_asked_for():
    assert text_field("Hello.", ServerSettings()) == {"characters": 6}
    told = text_field("Hello.", ServerSettings(log_text=True))
    assert told == {"characters": 6, "text": "Hello."}
