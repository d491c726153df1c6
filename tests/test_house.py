"""The rules of the house that no linter knows."""

import ast
import inspect
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import dia_ort

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "dia_models": ROOT / "models" / "dia_models",
    "dia_export": ROOT / "export" / "dia_export",
    "dia_ort": ROOT / "runtime" / "dia_ort",
}
MODULES = [file for package in PACKAGES.values() for file in package.rglob("*.py")]
SCRIPTS = [file for folder in ("tests", "tools") for file in (ROOT / folder).rglob("*.py")]
DOCUMENTS = [ROOT / name for name in ("README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md")]

HEAVY = {
    "dia_export",
    "dia_models",
    "huggingface_hub",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "torch",
    "transformers",
}

PUBLIC_API = """
Attempt(seed, seconds, finish_reason, fault)
Audio(samples, sample_rate, codes, finish_reason, seed, text='', codec=None)
Audio.duration
Audio.save(file, format=None)
AudioChunk(samples, sample_rate, index, start, is_last)
Cue(start, end, speaker, text)
Dia
Dia.astream(text, config=None, voice=None, *, chunk_frames=(4, 8, 16, 32, 64))
Dia.decode_codes(codes, context=(0, 0), *, on_window=None)
Dia.encode_audio(samples, sample_rate)
Dia.encode_tokens(tokens)
Dia.generate(text, config=None, voice=None)
Dia.generate_batch(texts, config=None, voice=None, *, max_batch=8)
Dia.generate_codes(text, config=None, voice=None)
Dia.load(model=None, *, provider='auto', provider_options=None, threads=None, revision=None)
Dia.manifest
Dia.open_decoder(slots)
Dia.sample_rate
Dia.start(text, config=None, voice=None)
Dia.stream(text, config=None, voice=None, *, chunk_frames=(4, 8, 16, 32, 64))
DiaError
Engine
Engine.close(*, drain=True, timeout=None)
Engine.failure
Engine.stats
Engine.submit(text, config=None, voice=None)
EngineStats(*, queued, running, steps, frames)
Generation
Generation.astream(chunk_frames=(4, 8, 16, 32, 64))
Generation.audio()
Generation.codes
Generation.finish_reason
Generation.seed
Generation.stream(chunk_frames=(4, 8, 16, 32, 64))
GenerationConfig(*, max_tokens=None, cfg_scale=3.0, temperature=1.2, top_p=0.95, \
cfg_filter_top_k=45, seed=None)
GenerationHandle
GenerationHandle.audio(chunk_frames=(4, 8, 16, 32, 64))
GenerationHandle.begun
GenerationHandle.cancel()
GenerationHandle.codes
GenerationHandle.done
GenerationHandle.finish_reason
GenerationHandle.frames()
GenerationHandle.num_frames
GenerationHandle.result(timeout=None)
LiveNarrator
LiveNarrator.plan(script)
LiveNarrator.speak(plan)
LiveSpeech
LiveSpeech.cancel()
LiveSpeech.num_frames
LiveSpeech.num_tokens
LiveSpeech.samples()
LiveSpeech.seconds
NarratedChunk(index, text, speakers, start, end, samples, attempts, taken)
NarratedChunk.fault
NarratedChunk.finish_reason
NarratedChunk.seed
Narration(chunks, sample_rate, seed, voice=None)
Narration.duration
Narration.samples
Narration.save(file, format=None)
NarrationOptions(*, limits=<factory>, retries=2, crossfade=0.03, pause=0.0, max_silence=None, \
speed=1.0)
Narrator
Pause(seconds)
Plan(chunks)
Plan.seconds
PlanLimits(*, min_seconds=5.0, max_seconds=20.0, max_turns=4, max_text=1024, closing_tag=True)
PlannedChunk(index, text, speakers, start, seconds, pause_after, spans)
Script(items, changes=(), warnings=())
Stream
Turn(speaker, sentences)
Turn.text
Voice(codes, transcript='', codec=None, origin='')
Voice.check_codec(codec)
Voice.from_audio(dia, audio, transcript='', *, sample_rate=None, normalize=False)
Voice.from_result(audio, transcript=None)
Voice.load(voice)
Voice.save(voice)
Voice.script(text)
__version__
make_cues(chunks)
narrate(engine, script, config=None, voice=None, options=None)
parse_script(text, speakers=None)
read_audio(file, check=None)
to_srt(cues, names=None)
to_vtt(cues, names=None)
write_audio(file, samples, sample_rate, format=None)
"""


def relative(path):
    return str(path.relative_to(ROOT))


def run_python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=60
    ).stdout


@cache
def command_help(command, *subcommand):
    """The ``--help`` of ``dia-ort`` or ``dia-export``."""
    module = command.replace("-", "_")
    code = f"import sys; from {module}.cli import main; sys.argv[0] = {command!r}; main()"
    return run_python("-c", code, *subcommand, "--help")


IMPORT = "import dia_ort"
HELP = """
import sys
from dia_ort.cli import main
sys.argv = ["dia-ort", "--help"]
try:
    main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize("code", [IMPORT, HELP], ids=["import", "help"])
def test_the_runtime_loads_nothing_heavy(code):
    output = run_python("-c", f"{code}\nimport sys; print(*sys.modules, sep='\\n')")
    assert "dia_ort" in output.splitlines()
    assert HEAVY.isdisjoint(output.splitlines())


@pytest.mark.parametrize(
    ("package", "barred"),
    [
        ("dia_models", {"dia_export", "dia_ort", "onnx", "onnxruntime", "transformers"}),
        ("dia_ort", {"dia_export", "dia_models", "onnx", "torch", "transformers"}),
        ("dia_export", {"transformers"}),
    ],
)
def test_imports_run_one_way(package, barred):
    for file in PACKAGES[package].rglob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{relative(file)}:{node.lineno} imports relatively"
                imported.add(node.module.partition(".")[0])
        assert imported.isdisjoint(barred), relative(file)


def test_files_are_short():
    lines = {relative(file): file.read_bytes().count(b"\n") for file in MODULES + SCRIPTS}
    assert {name: count for name, count in lines.items() if count > 500} == {}


def test_the_version_stands_in_one_place():
    files = [*MODULES, *SCRIPTS, *DOCUMENTS, *ROOT.glob("*.toml"), ROOT / "Makefile"]
    places = {
        relative(file)
        for file in files
        if file.exists() and dia_ort.__version__ in file.read_text("utf-8")
    }
    assert places - {"CHANGELOG.md"} == {"runtime/dia_ort/_version.py"}


def describe(function):
    """A function's parameters with their defaults, without ``self`` and types."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=parameter.empty)
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    return str(inspect.Signature(parameters))


def public_api():
    for name in dia_ort.__all__:
        thing = getattr(dia_ort, name)
        if not inspect.isclass(thing):
            yield name + (describe(thing) if callable(thing) else "")
            continue
        fields = getattr(thing, "__dataclass_fields__", {})
        yield name + (describe(thing) if fields else "")
        for member in sorted(set(vars(thing)) - set(fields)):
            if not member.startswith("_"):
                attribute = getattr(thing, member)
                yield f"{name}.{member}" + (describe(attribute) if callable(attribute) else "")


def test_the_public_api():
    assert list(public_api()) == PUBLIC_API.strip().splitlines()


def code_blocks(language):
    """The README's code in a language, each with its place; marked ``no-run``, it is left out."""
    text = (ROOT / "README.md").read_text("utf-8")
    for block in re.finditer(rf"^```{language}\b(.*)\n([^`]*?)^```$", text, re.MULTILINE):
        if "no-run" not in block[1]:
            yield text.count("\n", 0, block.start(2)), block[2]


def test_readme_examples_run(tmp_path, monkeypatch):
    """In order, one after the other, in one empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIA_ORT_HOME", str(tmp_path / "models"))
    names = {"__name__": "readme"}
    blocks = list(code_blocks("python"))
    assert blocks
    for line, code in blocks:
        exec(compile("\n" * line + code, "README.md", "exec"), names)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_what_there_is(document):
    text = document.read_text("utf-8")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets, f"make {target}"
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (ROOT / link).exists(), link


def test_commands_in_the_readme_have_their_options():
    code = "".join(code for _, code in code_blocks("sh")).replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in code.splitlines()]
    for command, *arguments in filter(None, commands):
        if command in {"dia-ort", "dia-export"}:
            depth = 2 if arguments[:1] == ["voice"] else 1
            subcommand = arguments[:depth] if command == "dia-ort" else []
            options = {a.partition("=")[0] for a in arguments if re.match(r"--?[a-z]", a)}
            known = re.findall(r"--?[a-z][a-z-]*", command_help(command, *subcommand))
            assert options <= set(known), shlex.join([command, *arguments])
