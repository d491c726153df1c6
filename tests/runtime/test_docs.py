"""docs/scripts-and-voices.md: every command and program runs as it stands there."""

import re
import shlex
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "scripts-and-voices.md").read_text("utf-8")
FILE = re.compile(r"cat > (\S+) <<'END'\n(.*?)^END\n", re.MULTILINE | re.DOTALL)


def blocks(language):
    """The page's code in a language."""
    return "".join(re.findall(rf"^```{language}\n([^`]*)^```$", PAGE, re.MULTILINE))


def test_it_runs(dia_ort, tmp_path):
    shell = blocks("sh")
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
    exec(compile(blocks("python"), "scripts-and-voices.md", "exec"), {})
