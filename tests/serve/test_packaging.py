"""The image, the compose file and the systemd unit: what they set, the server has."""

import re
from pathlib import Path

import pytest

from dia_ort.serve.config_file import KEYS
from dia_ort.serve.settings import ServerSettings

ROOT = Path(__file__).parents[2]
FILES = [ROOT / name for name in ("docker/Dockerfile", "docker/compose.yaml")]
UNIT = ROOT / "packaging" / "dia-ort.service"
VARIABLES = {f"DIA_ORT_{key.upper()}" for key in (*KEYS, "config")} | {"DIA_ORT_HOME"}


@pytest.mark.parametrize("file", [*FILES, UNIT], ids=lambda file: file.name)
def test_every_variable_is_one_of_the_server(file):
    names = set(re.findall(r"DIA_ORT_\w+", file.read_text("utf-8")))
    assert names
    assert names <= VARIABLES


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        (FILES[1], r"^  stop_grace_period: (\d+)s$"),
        (UNIT, r"^TimeoutStopSec=(\d+)$"),
    ],
    ids=["compose", "systemd"],
)
def test_a_stop_waits_for_the_drain(file, pattern):
    [seconds] = re.findall(pattern, file.read_text("utf-8"), re.MULTILINE)
    assert int(seconds) >= ServerSettings().drain_timeout + 10


def test_the_health_check_is_python():
    lines = FILES[0].read_text("utf-8").replace("\\\n", "")
    [code] = re.findall(r'^HEALTHCHECK .* CMD \["python", "-c", "(.*)"\]$', lines, re.MULTILINE)
    compile(code, "HEALTHCHECK", "exec")
