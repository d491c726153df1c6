"""docs: every command of scripts-and-voices.md, and every program, runs as it stands there."""

import logging
import re
import shlex
import warnings
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FILE = re.compile(r"cat > (\S+) <<'END'\n(.*?)^END\n", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    """A page's code in a language."""
    text = (DOCS / page).read_text("utf-8")
    return "".join(re.findall(rf"^```{language}\n([^`]*)^```$", text, re.MULTILINE))


def test_the_commands_run(dia_ort, tmp_path):
    shell = blocks("scripts-and-voices.md", "sh")
    for name, content in FILE.findall(shell):
        (tmp_path / name).write_text(content, "utf-8")
    commands = FILE.sub("", shell).splitlines()
    assert len(commands) > 10
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "dia-ort"
        outcome = dia_ort(*arguments)
        assert outcome.code == 0, outcome.err
    assert "0 done" in outcome.err
    assert "3 skipped, 0 failed" in outcome.err


@pytest.mark.parametrize("page", ["embedding.md", "scripts-and-voices.md"])
def test_the_programs_run(tmp_path, monkeypatch, page):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIA_ORT_HOME", str(tmp_path / "models"))
    logger = logging.getLogger("dia_ort")
    monkeypatch.setattr(logger, "level", logger.level)  # one of them changes it
    with warnings.catch_warnings():
        exec(compile(blocks(page, "python"), page, "exec"), {})
