"""Which file of a graph runs, and where: the rules of every provider, with their reasons.

| provider | text encoder, decoder | codec |
| --- | --- | --- |
| cpu | float32; x86 without VNNI has graphs of its own: :mod:`dia_ort.levels` | float32 |
| cuda | half precision: its cached attention has no float32 kernel | float32, exact |
| coreml | see :mod:`dia_ort.coreml` | CoreML |
| webgpu | encoder on the CPU, in float32; a decoder of its own, in half precision | float32 |
| others | as the CPU; onnxruntime gives them the nodes that they take | the same |
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from dia_ort import coreml
from dia_ort.artifacts import Artifact
from dia_ort.checks import usable_cpus
from dia_ort.codec import MOST_THREADS, CodesDecoder, RunEncoder
from dia_ort.errors import ProviderError
from dia_ort.graphs import DAC_DECODER, DAC_ENCODER, DECODER, ENCODER, GraphName
from dia_ort.levels import levels_of
from dia_ort.manifest import GraphInfo, Manifest
from dia_ort.providers import Provider, open_session, products_overflow

logger = logging.getLogger(__name__)

_PREFERENCES = {"cuda": ("float16", "bfloat16", "float32")}
_FLOAT32_FIRST = ("float32", "float16", "bfloat16")


def choose_file(manifest: Manifest, graph: GraphName, provider: Provider) -> GraphInfo:
    """The file of a graph that a provider is to run.

    Raises:
        ProviderError: The provider has no kernels for it; the message names the dtype to take.
    """
    if graph == DECODER and provider.name == "webgpu":
        return _for_webgpu(manifest)
    files = {
        info.compute: info
        for info in manifest.graphs
        if info.graph == graph and info.provider is None
    }
    preferred = _PREFERENCES.get(provider.name, _FLOAT32_FIRST)
    info = next(files[compute] for compute in preferred if compute in files)
    on_cuda = provider.name == "cuda"
    if info.compute == "bfloat16" and not on_cuda:
        raise ProviderError(
            f"{info.file} computes in bfloat16, and the {provider.name} provider has no kernels "
            "for that: export the model again (dia-export --dtype bf16) for its float32 graph."
        )
    fused = manifest.attention == "fused"
    if on_cuda and graph == DECODER and info.compute == "float32" and fused:
        raise ProviderError(
            f"this {manifest.dtype} model computes in float32, for which onnxruntime has no cached "
            "attention on CUDA: take fp16 (dia-export --dtype fp16) or int4; or, for float32 "
            "itself, --dtype fp32 --attention standard."
        )
    if products_overflow() and place(manifest, info, provider).name == "cpu":
        for other in manifest.graphs:
            if (other.graph, other.provider) == (graph, "cpu"):
                return other
    return info


def _for_webgpu(manifest: Manifest) -> GraphInfo:
    for info in manifest.graphs:
        if info.provider == "webgpu":
            return info
    raise ProviderError(
        f"this {manifest.dtype} model has no decoder for the webgpu provider: export the model "
        "again as int4, int8 or fp16 (dia-export --dtype int4, with fused attention)."
    )


def place(manifest: Manifest, info: GraphInfo, provider: Provider) -> Provider:
    """Where a file runs: on the provider, or on the CPU if that is the better place."""
    if provider.name == "coreml":
        where = coreml.placement(info.graph, manifest)
        logger.info("%s: CoreML %s: %s", info.file, where.on_coreml, where.reason)
        options = {**coreml.provider_options(), **provider.options}
        return replace(provider, options=options) if where.on_coreml else Provider("cpu")
    if provider.name == "webgpu" and info.graph == ENCODER:
        return Provider("cpu")  # WebGPU's attention was seen to be wrong from 32 positions on
    return provider if info.graph == DECODER else provider.without_capture()


def open_graph(
    artifact: Artifact,
    info: GraphInfo,
    provider: Provider,
    threads: int | None,
    *,
    prepack: bool = True,
) -> Any:
    """A session of a file, where :func:`place` puts it; arguments as in :func:`open_session`."""
    path, spec = artifact.folder / info.file, artifact.manifest.spec(info)
    where, levels = place(artifact.manifest, info, provider), levels_of(artifact.folder, info)
    with provider.alone:
        return open_session(path, spec, where, threads, prepack=prepack, levels=levels)


def open_dac_decoder(artifact: Artifact, provider: Provider, threads: int | None) -> CodesDecoder:
    """Codes to audio; arguments as in :func:`open_session`."""
    codec = artifact.manifest.codec
    if provider.name == "cpu":
        run, _ = _open_codec(artifact, DAC_DECODER, provider, 1)
        return CodesDecoder(run, codec, min(threads or usable_cpus(), MOST_THREADS))
    plain, static = _open_codec(artifact, DAC_DECODER, provider, threads)
    run = coreml.decode_in_windows(plain, static, codec) if static else plain
    return CodesDecoder(run, codec)


def open_dac_encoder(artifact: Artifact, provider: Provider, threads: int | None) -> RunEncoder:
    """Audio to codes, as a function; arguments as in :func:`open_session`."""
    plain, static = _open_codec(artifact, DAC_ENCODER, provider, threads)
    return coreml.encode_in_windows(plain, static, artifact.manifest.codec) if static else plain


def _open_codec(
    artifact: Artifact, graph: GraphName, provider: Provider, threads: int | None
) -> tuple[Callable[..., NDArray[Any]], Callable[..., NDArray[Any]] | None]:
    """One of the codec's graphs, and its static variant if CoreML runs it.

    CoreML wants fixed sizes, so it runs windows of one length; what they leave runs on the CPU.
    """
    manifest = artifact.manifest
    info = choose_file(manifest, graph, provider)
    where = place(manifest, info, provider)
    plain = Provider("cpu") if where.name == "coreml" else where
    run = _runner(open_graph(artifact, info, plain, threads), provider.alone)
    if where is plain:
        return run, None
    folder = coreml.cache_folder()
    static = coreml.static_graph(
        artifact.folder / info.file, coreml.static_sizes(graph, manifest), folder
    )
    options = {**coreml.provider_options(folder), **where.options}
    spec = coreml.static_spec(manifest.spec(info), manifest)
    session = open_session(static, spec, replace(where, options=options), threads)
    return run, _runner(session, provider.alone)


def _runner(session: Any, lock: AbstractContextManager[Any]) -> Callable[..., NDArray[Any]]:
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: NDArray[Any]) -> NDArray[Any]:
        with lock:
            result: NDArray[Any] = session.run(None, dict(zip(names, inputs, strict=True)))[0]
        return result

    return run
