"""Reading manifests: strict, and never with another error than the announced ones."""

import contextlib
import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_ort.artifacts import find_artifact
from dia_ort.errors import ArtifactError, ArtifactNotFoundError, UnsupportedVersionError
from dia_ort.manifest import MANIFEST_NAME, VERSION, Manifest, parse_manifest, read_manifest

DEMO = find_artifact("demo").folder
VALID = json.loads((DEMO / MANIFEST_NAME).read_text("utf-8"))


def edited(path, value=None, *, delete=False):
    """The demo's manifest as JSON, with the value at a dotted path replaced or deleted."""
    manifest = copy.deepcopy(VALID)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    place = manifest
    for key in parents:
        place = place[key]
    if delete:
        del place[last]
    else:
        place[last] = value
    return json.dumps(manifest)


def test_what_is_written_is_read():
    manifest = read_manifest(DEMO)
    assert json.loads(manifest.to_json()) == {"attention": "fused"} | VALID
    assert parse_manifest(manifest.to_json()) == manifest


def test_what_may_be_absent_is_null():
    assert parse_manifest(edited("quantization", None)).quantization is None
    assert parse_manifest(edited("sources/model/revision", "abc")).sources["model"].revision
    manifest = copy.deepcopy(VALID)
    manifest["graphs"][7]["data"] = None
    del manifest["files"]["dac_decoder.onnx.data"]
    assert parse_manifest(json.dumps(manifest)).graphs[7].data is None


def test_whole_numbers_are_numbers():
    figures = parse_manifest(edited("verification/encoder.onnx/error", 1)).verification
    assert type(figures["encoder.onnx"]["error"]) is float


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("dtype", "lacks dtype"),
        ("quantization", "lacks quantization"),
        ("model/max_steps", "lacks model.max_steps"),
        ("graphs/2/compute", r"lacks graphs\[2\].compute"),
        ("files/encoder.onnx/sha256", r"lacks files.encoder.onnx.sha256"),
    ],
)
def test_missing_keys(path, message):
    with pytest.raises(ArtifactError, match=f"{message}; export the model again"):
        parse_manifest(edited(path, delete=True))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("license", "has an unknown license"),
        ("codec/stereo", "has an unknown codec.stereo"),
        ("graphs/0/opset", r"has an unknown graphs\[0\].opset"),
    ],
)
def test_unknown_keys(path, message):
    with pytest.raises(ArtifactError, match=message):
        parse_manifest(edited(path, 1))


def test_all_wrong_keys_are_listed():
    manifest = {key: value for key, value in VALID.items() if key not in {"dtype", "tools"}}
    with pytest.raises(ArtifactError, match="lacks dtype, lacks tools, has an unknown comment;"):
        parse_manifest(json.dumps(manifest | {"comment": ""}))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("dtype", "fp8", r"dtype must be 'fp32' or .* or 'int4', not 'fp8'"),
        ("dtype", ["int4"], r"dtype must be 'fp32' or .*, not \['int4'\]"),
        ("attention", "sparse", r"attention must be 'fused' or 'standard', not 'sparse'"),
        ("attention", None, r"attention must be 'fused' or 'standard', not None"),
        ("model", [], r"model must be an object, not \[\]"),
        ("model/max_steps", 3072.0, r"model.max_steps must be a whole number, not 3072.0"),
        ("model/max_steps", True, r"model.max_steps must be a whole number, not True"),
        ("model/release", "second", r"model.release must be 'first' or '0626', not 'second'"),
        ("model/delay_pattern", "abc", r"model.delay_pattern must be a list, not 'abc'"),
        ("model/delay_pattern/3", None, r"model.delay_pattern\[3\] must be a whole number, not No"),
        ("graphs", {}, r"graphs must be a list, not {}"),
        ("graphs/1/data", 5, r"graphs\[1\].data must be text, not 5"),
        ("files", None, r"files must be an object, not None"),
        (
            "files/encoder.onnx/size",
            "9",
            r"files.encoder.onnx.size must be a whole number, not '9'",
        ),
        ("quantization", "int8", r"quantization must be an object, not 'int8'"),
        ("verification/encoder.onnx/error", True, r"encoder.onnx.error must be a number, not True"),
        pytest.param(
            "verification/encoder.onnx/error",
            10**400,
            "error must be a number, not 1",
            id="beyond float",
        ),
    ],
)
def test_wrong_types(path, value, message):
    with pytest.raises(ArtifactError, match=message):
        parse_manifest(edited(path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model/num_layers", 0, "num_layers must be at least 1, not 0"),
        ("model/eos_token_id", -1, "eos_token_id must be at least 0, not -1"),
        ("codec/hop_length", -512, "hop_length must be at least 1, not -512"),
        ("model/num_channels", 8, "delay_pattern must have model.num_channels entries"),
        ("model/delay_pattern", [], "delay_pattern must have model.num_channels entries"),
        ("model/delay_pattern/0", 1, "delay_pattern must begin with 0"),
        ("model/delay_pattern/5", -2, "delay_pattern must begin with 0 and be 0 or more"),
        ("codec/num_codebooks", 8, "num_codebooks must equal model.num_channels"),
        ("model/pad_token_id", 1028, "special tokens must lie between the codes and vocab_size"),
        ("model/bos_token_id", 1023, "special tokens must lie between the codes and vocab_size"),
        ("graphs/7/data", None, r"do not name the same files \(dac_decoder.onnx.data\)"),
        ("graphs/0/file", "text.onnx", r"\(encoder.onnx, text.onnx\)"),
        ("files/extra.bin", {"size": 1, "sha256": ""}, r"\(extra.bin\)"),
        ("graphs/8", VALID["graphs"][7] | {"nodes": 1}, r"files \(dac_encoder.onnx, "),
        ("graphs/0/graph", "decoder", "must hold each of encoder, decoder, dac_decoder, dac_enc"),
        ("graphs/7/provider", "webgpu", "must hold each of"),  # the only dac_decoder
        ("graphs/2/unsigned/0/offset", 10**9, "encoder.unsigned.onnx is not within its weight f"),
        ("graphs/2/unsigned/0/offset", -1, "is not within its weight file"),
        ("graphs/2/unsigned/0/shape", [5, -5], "is not within its weight file"),
        ("graphs/2/unsigned/0/shape", [10**5, 10**5], "is not within its weight file"),
    ],
)
def test_contradictions(path, value, message):
    with pytest.raises(ArtifactError, match=message):
        parse_manifest(edited(path, value))


def test_no_channels_at_all():
    manifest = copy.deepcopy(VALID)
    manifest["model"] |= {"num_channels": 0, "delay_pattern": []}
    with pytest.raises(ArtifactError, match="num_channels must be at least 1, not 0"):
        parse_manifest(json.dumps(manifest))


@pytest.mark.parametrize(
    "name",
    [
        "../weights",
        "/etc/passwd",
        "sub/weights",
        "sub\\weights",
        "..\\weights",
        "C:weights",
        "C:\\weights",
        "encoder.onnx:stream",
        "encoder.onnx\0",
        "encoder.onnx/",
        "..",
        ".",
        "",
    ],
)
@pytest.mark.parametrize("kind", ["file", "data"])
def test_files_outside_the_folder(kind, name):
    manifest = copy.deepcopy(VALID)
    old = manifest["graphs"][0][kind]
    manifest["graphs"][0][kind] = name
    manifest["files"][name] = manifest["files"].pop(old)
    with pytest.raises(ArtifactError, match="points outside the folder"):
        parse_manifest(json.dumps(manifest))


def test_versions_are_told_apart():
    with pytest.raises(UnsupportedVersionError, match=r"version 1, of an older.* export the model"):
        parse_manifest(edited("version", 1))
    with pytest.raises(UnsupportedVersionError, match=r"pip install -U dia-ort"):
        parse_manifest(edited("version", VERSION + 1))
    # Whatever else it holds: a newer format may have other keys.
    with pytest.raises(UnsupportedVersionError, match=f"version {VERSION + 1}, .* up to {VERSION}"):
        parse_manifest(json.dumps({"format": "dia-ort", "version": VERSION + 1}))


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None, [1]])
def test_versions_that_are_none(version):
    with pytest.raises(ArtifactError, match='"version" must be a positive whole number, not'):
        parse_manifest(edited("version", version))


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "null",
        '"dia-ort"',
        '{"format": "gguf", "version": 1}',
        '{"format": ["dia-ort"]}',
    ],
)
def test_other_manifests(text):
    with pytest.raises(ArtifactError, match="is no dia-ort manifest"):
        parse_manifest(text)


@pytest.mark.parametrize(
    "text",
    ["", "{", "\0", '{"format": dia-ort}', "[" * 100_000, "1" * 5000, json.dumps(VALID)[:-1]],
    ids=["empty", "open", "nul", "unquoted", "nested", "long number", "truncated"],
)
def test_other_texts(text):
    with pytest.raises(ArtifactError, match=r"here.json is not valid JSON \(.*export the model ag"):
        parse_manifest(text, "here.json")


@pytest.mark.parametrize("path", ["version", "model", "dtype", "tools/torch"])
def test_deep_nesting(path):
    """To every depth that the parser lets through: the error message shows only the outside."""
    for depth in (10, 100, *range(800, 1000, 5)):
        text = edited(path, "HERE").replace('"HERE"', "[" * depth + "]" * depth)
        with pytest.raises(ArtifactError) as error:
            parse_manifest(text)
        assert len(str(error.value)) < 300


def test_folders_without_a_manifest_that_reads(tmp_path):
    with pytest.raises(ArtifactNotFoundError, match=r"has no manifest.json. Make one with `dia-ex"):
        read_manifest(tmp_path)
    path = tmp_path / MANIFEST_NAME
    path.mkdir()
    with pytest.raises(ArtifactError, match=r"manifest.json cannot be read: "):
        read_manifest(tmp_path)
    path.rmdir()
    path.write_bytes(b'{"format": "\xff"}')
    with pytest.raises(ArtifactError, match=r"manifest.json cannot be read: 'utf-8' codec"):
        read_manifest(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf{}")
    with pytest.raises(ArtifactError, match=r"manifest.json is not valid JSON"):
        read_manifest(tmp_path)


def reads_or_refuses(text):
    """Whatever the text, it is a manifest or an ArtifactError."""
    with contextlib.suppress(ArtifactError):
        manifest = parse_manifest(text)
        assert isinstance(manifest, Manifest)
        assert parse_manifest(manifest.to_json()) == manifest


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**30), 0])
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(["", "..", "demo", "\ud800", "encoder.onnx"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@st.composite
def mutations(draw):
    """A valid manifest with a few values somewhere in it replaced, deleted or added."""
    manifest = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 3))):
        place = manifest
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or draw(st.integers(0, 3)) == 0:
                action = draw(st.sampled_from(["replace", "delete", "add"]))
                if action == "replace":
                    place[key] = draw(VALUES)
                elif action == "delete":
                    del place[key]
                elif isinstance(place, dict):
                    place[draw(st.text())] = draw(VALUES)
                else:
                    place.append(draw(VALUES))
                break
            place = place[key]
    return manifest


@settings(deadline=None)
@given(VALUES, st.booleans())
def test_fuzz_any_json(value, framed):
    frame = {"format": "dia-ort", "version": VERSION} if framed and isinstance(value, dict) else {}
    reads_or_refuses(json.dumps(value | frame if frame else value))


@settings(deadline=None)
@given(mutations())
def test_fuzz_mutated_manifests(manifest):
    reads_or_refuses(json.dumps(manifest))


@settings(deadline=None)
@given(st.text())
def test_fuzz_any_text(text):
    reads_or_refuses(text)
