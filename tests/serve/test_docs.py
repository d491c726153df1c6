"""What docs/serving.md says."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile

from dia_ort.serve.metrics import OUTCOMES, REJECTIONS
from dia_ort.serve.schemas import SpeechRequest

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
TEXT = DOCS.read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def here(code, server):
    return code.replace("127.0.0.1:8000", server.url.removeprefix("http://"))


@pytest.mark.parametrize("number", range(2))
def test_python_examples_run(server, number):
    exec(compile(here(blocks("python")[number], server), str(DOCS), "exec"), {})


def test_there_are_two_python_examples():
    assert len(blocks("python")) == 2


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_curl_examples_run(server, client, voices_folder, tmp_path):
    (voices_folder / "ann.voice").unlink(missing_ok=True)  # of another test
    speech = {"input": "[S1] hello world. [S2] this is dia.", "response_format": "wav"}
    (tmp_path / "ref.wav").write_bytes(client.post("/v1/audio/speech", json=speech).content)
    examples = [block for block in blocks("sh") if block.startswith("curl")]
    assert len(examples) == 2
    for example in examples:
        script = "set -e\n" + here(example, server).replace("curl ", "curl -sSf ")
        subprocess.run(["sh", "-c", script], cwd=tmp_path, check=True)
    assert soundfile.info(tmp_path / "hello.mp3").duration > 1


def test_all_fields_are_described():
    table = TEXT[TEXT.index("| field |") : TEXT.index("Every format")]
    for field in SpeechRequest.model_fields:
        assert f"`{field}`" in table


def test_all_metrics_are_described(client):
    names = set(re.findall(r"^# TYPE dia_ort_(\w+) ", client.get("/metrics").text, re.MULTILINE))
    for name in names:
        if not name.endswith("_created"):
            assert f"`{name}" in TEXT, name


def test_outcomes_and_reasons_are_counted_from_the_start(client):
    metrics = client.get("/metrics").text
    for outcome in OUTCOMES:
        assert f'outcome="{outcome}"' in metrics
    for reason in REJECTIONS:
        assert f'reason="{reason}"' in metrics
