"""The gate: a graph is held against PyTorch before anything is published.

Names first, then dtypes and axes, shapes, and values on fresh inputs; for quantised decoders also
the distributions that they sample from. The PyTorch model and the onnxruntime session are never in
memory together.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dia_export.errors import (
    AxesMismatchError,
    DistributionMismatchError,
    GateError,
    NameMismatchError,
    ShapeMismatchError,
    ValueMismatchError,
)
from dia_models.checkpoint import DacCheckpoint, DiaCheckpoint, Weight
from dia_models.dac import DacDecoder, DacEncoder
from dia_models.dia import Decoder, TextEncoder, load_weights
from dia_ort.graphs import DAC_DECODER, DAC_ENCODER, DECODER, ENCODER, GraphSpec
from dia_ort.levels import UnsignedLevels
from dia_ort.providers import CPU, TENSOR_TYPES, Provider, open_session, session_options
from dia_ort.text import encode_text

_SCRIPT = "[S1] yes. [S2] no. "
TOP_K = 45
GUIDANCE = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What a graph may differ by.

    Attributes:
        error: RMS of the difference from PyTorch's float32, over the RMS of its values.
        kl: Mean KL divergence, in nats, of the next-token distributions from PyTorch's.
        overlap: Least mean share of the guided top-45 candidates that are the same.
    """

    error: float
    kl: float
    overlap: float


# Measured on the full-size random model, the tiny one and the trained demo: at the worst, error,
# kl and overlap were fp32 5e-6, 2e-12, 1; fp16 0.002, 5e-6, 0.998; bf16 0.011, 4e-5, 0.995; int8
# 0.064, 0.011, 0.922; int4, not calibrated, 0.33, 0.284, 0.674. The limits leave room for other
# weights: random ones of transformers' default scale, whose attention is sharper, gave fp32 a kl of
# 4e-8.
TOLERANCES = {
    "fp32": Tolerance(error=1e-3, kl=1e-6, overlap=0.999),
    "fp16": Tolerance(error=0.05, kl=1e-3, overlap=0.97),
    "bf16": Tolerance(error=0.2, kl=0.02, overlap=0.9),
    "int8": Tolerance(error=0.3, kl=0.05, overlap=0.85),
    "int4": Tolerance(error=1.0, kl=0.6, overlap=0.5),
}
_CODEC_ERROR = 1e-4
"""Of the DAC decoder, in every artifact, over full scale (1.0)."""
_CODES_EQUAL = 0.995
"""Share of the DAC encoder's codes; a near-tie may fall either way."""


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs of one graph, one call or several in a row, and PyTorch's outputs.

    Attributes:
        inputs: By input name, all steps at once.
        outputs: By output name.
        prefill: Decoder only: how many steps to run in the first call.
    """

    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    prefill: int = 0


Figures = dict[str, float]
Module = TypeVar("Module", bound=nn.Module)
Values = NDArray[np.floating[Any]]


def check_interface(path: Path, spec: GraphSpec, session: ort.InferenceSession) -> None:
    """Hold a graph's inputs and outputs against the declaration.

    Raises:
        NameMismatchError: They have other names, or another order.
        AxesMismatchError: They have other dtypes or axes.
    """
    for kind, found, declared in (
        ("input", session.get_inputs(), spec.inputs),
        ("output", session.get_outputs(), spec.outputs),
    ):
        names = [value.name for value in found]
        if names != [tensor.name for tensor in declared]:
            raise NameMismatchError(f"{path.name}: its {kind}s are {names}, not as declared.")
        for value, tensor in zip(found, declared, strict=True):
            have, want = (value.type, tuple(value.shape)), (TENSOR_TYPES[tensor.dtype], tensor.axes)
            if have != want:
                raise AxesMismatchError(f"{path.name}: {kind} {value.name} is {have}, not {want}.")


class Reference:
    """PyTorch's side of the gate: inputs and the outputs they must give, graph by graph.

    Args:
        dia: The model.
        dac: The codec.
        seed: Of the inputs.
    """

    def __init__(self, dia: DiaCheckpoint, dac: DacCheckpoint, seed: int = 0) -> None:
        self._model, self._codec = dia.config, dac.config
        self._dia, self._dac = dia.weights, dac.weights
        self._random = np.random.default_rng(seed)
        self._cross: list[tuple[NDArray[np.int32], list[Values]]] = []

    def cases(self, graph: str) -> list[Case]:
        """The cases of one graph. The text encoder's must be made before the decoder's."""
        make = {
            ENCODER: self._encoder_cases,
            DECODER: self._decoder_cases,
            DAC_DECODER: self._dac_decoder_cases,
            DAC_ENCODER: self._dac_encoder_cases,
        }
        with torch.inference_mode():
            cases = list(make[graph]())
        gc.collect()
        return cases

    def _texts(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32]]]:
        """A short script, a longer one, and two of unequal length; and a text of zeros for each."""
        for repeats in ((1,), (4,), (9, 3)):
            scripts = [encode_text(_SCRIPT * n, self._model.encoder.max_positions) for n in repeats]
            lengths = np.array([len(script) for script in scripts] * 2, np.int32)
            tokens = np.zeros((2 * len(scripts), lengths.max()), np.int64)
            for row, script in enumerate(scripts):
                tokens[row, : len(script)] = script
            yield tokens, lengths

    def _encoder_cases(self) -> Iterator[Case]:
        module = _filled(TextEncoder(self._model), self._dia, "encoder.")
        for tokens, lengths in self._texts():
            outputs = module(torch.from_numpy(tokens), torch.from_numpy(lengths))
            cross = [_masked(value.numpy(), lengths) for value in outputs]
            self._cross.append((lengths, cross))
            names = [
                f"cross_{kind}.{i}" for i in range(len(cross) // 2) for kind in ("key", "value")
            ]
            yield Case(
                {"tokens": tokens, "text_lengths": lengths}, dict(zip(names, cross, strict=True))
            )

    def _decoder_cases(self) -> Iterator[Case]:
        module = _filled(Decoder(self._model), self._dia, "decoder.")
        decoder = self._model.decoder
        for (lengths, cross), (steps, prefill) in zip(
            self._cross, ((4, 1), (208, 200), (24, 17)), strict=True
        ):
            rows, texts = len(lengths), len(lengths) // 2
            tokens = self._random.integers(
                0, self._model.eos_token_id, (texts, steps, decoder.num_channels)
            )
            for channel, delay in enumerate(self._model.delay_pattern):
                tokens[:, : delay + 1, channel] = self._model.bos_token_id
            tokens = np.concatenate([tokens, tokens])  # a pair's rows share their tokens
            cache = np.zeros((rows, decoder.num_kv_heads, steps + 3, decoder.head_dim), np.float32)
            inputs: dict[str, NDArray[Any]] = {
                "tokens": tokens,
                "seqlens_k": np.full(rows, steps - 1, np.int32),
                "total_sequence_length": np.array([steps], np.int32),
                "text_lengths": lengths[:texts],
                "uncond_value": np.stack([v[texts, :, 0].flatten() for v in cross[1::2]]),
            }
            plain = [torch.from_numpy(value) for value in inputs.values()]
            for i in range(decoder.num_layers):
                key, value = cross[2 * i : 2 * i + 2]
                inputs |= {f"cross_key.{i}": key[:texts], f"cross_value.{i}": value[:texts]}
            texts_of = [torch.from_numpy(value[:texts]) for value in cross]
            pasts = [torch.from_numpy(cache)] * (2 * decoder.num_layers)
            logits = module(*plain, texts_of, pasts)[0]
            for i in range(decoder.num_layers):
                inputs |= {f"past_key.{i}": cache, f"past_value.{i}": cache}
            yield Case(inputs, {"logits": logits.numpy()}, prefill)

    def _dac_decoder_cases(self) -> Iterator[Case]:
        module = _filled(DacDecoder(self._codec), self._dac)
        names = ("before", "codes", "after")
        for batch, sizes in ((1, (0, 5, 0)), (2, (0, 33, 12)), (1, (11, 4, 1))):
            codes = [
                self._random.integers(
                    0, self._codec.codebook_size, (batch, self._codec.num_codebooks, frames)
                )
                for frames in sizes
            ]
            whole = module.whole(torch.from_numpy(np.concatenate(codes, axis=-1)))
            start, stop = sizes[0] * self._codec.hop_length, -sizes[2] * self._codec.hop_length
            audio = whole[..., start : stop or None]
            yield Case(dict(zip(names, codes, strict=True)), {"audio": audio.numpy()})

    def _dac_encoder_cases(self) -> Iterator[Case]:
        module = _filled(DacEncoder(self._codec), self._dac)
        for batch, frames in ((1, 8), (2, 40)):
            shape = (batch, 1, frames * self._codec.hop_length)
            audio = np.cumsum(self._random.normal(0, 0.02, shape), axis=-1).astype(np.float32)
            audio = np.tanh(audio)
            codes = module(torch.from_numpy(audio))
            yield Case({"audio": audio}, {"codes": codes.numpy()})


def check_graph(
    path: Path,
    spec: GraphSpec,
    cases: Sequence[Case],
    tolerance: Tolerance,
    provider: Provider | None = None,
    levels: UnsignedLevels | None = None,
) -> Figures:
    """Run a graph and hold it against PyTorch's outputs.

    Args:
        path: The ONNX file.
        spec: Its declaration.
        cases: From :class:`Reference`.
        tolerance: What it may differ by, as :data:`TOLERANCES` has it for each dtype.
        provider: Where to run it; None: the CPU.
        levels: As for :func:`dia_ort.providers.open_session`.

    Returns:
        The figures: ``error`` (``equal`` for codes), and for decoders ``kl`` and ``overlap``.

    Raises:
        NameMismatchError, AxesMismatchError, ShapeMismatchError, ValueMismatchError,
        DistributionMismatchError: The graph does not pass.
        GateError: onnxruntime cannot load it, or run it.
    """
    with _gate_errors(path):
        if provider is None:
            options = session_options()
            if levels:
                levels.add_to(options, ort)
            session = ort.InferenceSession(str(path), options, providers=[CPU])
        else:  # as users have it: never quietly on the CPU
            session = open_session(path, spec, provider, None, levels=levels)
    check_interface(path, spec, session)
    with _gate_errors(path):
        outputs = [_run(session, spec, case) for case in cases]
    if spec.name == DAC_ENCODER:
        return _check_codes(path, outputs, cases)
    if spec.name == DAC_DECODER:
        return _check_values(path, outputs, cases, _largest, _CODEC_ERROR)
    figures = _check_values(path, outputs, cases, _relative, tolerance.error)
    if spec.name == DECODER:
        figures |= _check_distribution(path, outputs, cases, tolerance)
    return figures


Outputs = dict[str, NDArray[Any]]


@contextlib.contextmanager
def _gate_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime's own classes share no useful base
        raise GateError(f"{path.name} does not run in onnxruntime: {error}") from error


def _run(session: ort.InferenceSession, spec: GraphSpec, case: Case) -> Outputs:
    """Run a case; the decoder in a prefill and single steps, its cache handed on."""
    dtypes = {tensor.name: tensor.dtype for tensor in spec.inputs}
    feed = {
        name: value.astype(dtypes[name]) if value.dtype == np.float32 else value
        for name, value in case.inputs.items()
    }
    names = [tensor.name for tensor in spec.outputs]
    if spec.name != DECODER:
        return dict(zip(names, session.run(None, feed), strict=True))
    tokens, logits = feed["tokens"], []
    steps = tokens.shape[1]
    for start, stop in [(0, case.prefill), *((t, t + 1) for t in range(case.prefill, steps))]:
        feed["tokens"] = tokens[:, start:stop]
        feed["seqlens_k"] = np.full(len(tokens), stop - 1, np.int32)
        feed["total_sequence_length"] = np.array([stop], np.int32)
        outputs = dict(zip(names, session.run(None, feed), strict=True))
        logits.append(outputs.pop("logits"))
        feed |= {name.replace("present", "past"): value for name, value in outputs.items()}
    return {"logits": np.concatenate(logits, axis=1)}


def _check_values(
    path: Path,
    outputs: Sequence[Outputs],
    cases: Sequence[Case],
    measure: Callable[[Values, Values], float],
    limit: float,
) -> Figures:
    """The worst of ``measure(difference, wanted values)`` over all outputs of all cases."""
    worst = 0.0
    for got, case in zip(outputs, cases, strict=True):
        for name, want in case.outputs.items():
            have: Values = np.asarray(got[name], np.float64)
            if have.shape != want.shape:
                raise ShapeMismatchError(
                    f"{path.name}: output {name} has the shape {have.shape}, not {want.shape}."
                )
            if "text_lengths" in case.inputs and name != "logits":
                have = _masked(have, case.inputs["text_lengths"])
            error = measure(have - want, want.astype(np.float64))
            if not error <= limit:  # NaN fails as well
                raise ValueMismatchError(
                    f"{path.name}: {name} differs from PyTorch's by {error:.3g}, and {limit:.3g} "
                    "is allowed."
                )
            worst = max(worst, error)
    return {"error": worst}


def _relative(difference: Values, want: Values) -> float:
    return float(np.sqrt(np.mean(difference**2) / np.mean(want**2)))


def _largest(difference: Values, _want: Values) -> float:
    return float(np.abs(difference).max())


def _check_codes(path: Path, outputs: Sequence[Outputs], cases: Sequence[Case]) -> Figures:
    equal, total = 0, 0
    for codes, case in zip(outputs, cases, strict=True):
        got, want = codes["codes"], case.outputs["codes"]
        if got.shape != want.shape:
            raise ShapeMismatchError(
                f"{path.name}: codes have the shape {got.shape}, not {want.shape}."
            )
        equal, total = equal + int((got == want).sum()), total + want.size
    if equal / total < _CODES_EQUAL:
        raise ValueMismatchError(
            f"{path.name}: {equal} of {total} codes are PyTorch's, and {_CODES_EQUAL:.1%} must be."
        )
    return {"equal": equal / total}


def _check_distribution(
    path: Path, outputs: Sequence[Outputs], cases: Sequence[Case], tolerance: Tolerance
) -> Figures:
    divergences, overlaps = [], []
    for got, case in zip(outputs, cases, strict=True):
        have = torch.from_numpy(np.asarray(got["logits"]))
        want = torch.from_numpy(np.asarray(case.outputs["logits"]))
        divergences.append(kl_divergence(want, have).flatten())
        overlaps.append(shared_candidates(guided(want), guided(have)).flatten())
    kl = float(torch.cat(divergences).mean())
    overlap = float(torch.cat(overlaps).mean())
    if not (kl <= tolerance.kl and overlap >= tolerance.overlap):
        raise DistributionMismatchError(
            f"{path.name}: next-token distributions diverge by {kl:.3g} nats ({tolerance.kl:.3g} "
            f"allowed) and share {overlap:.1%} of the top {TOP_K} ({tolerance.overlap:.1%} wanted)."
        )
    return {"kl": kl, "overlap": overlap}


def kl_divergence(want: Tensor, have: Tensor) -> Tensor:
    """KL divergence of ``have`` from ``want``, over the last axis of logits, in float64."""
    p, q = want.double().log_softmax(-1), have.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def guided(logits: Tensor) -> Tensor:
    """Guidance of logits whose rows are the conditional ones, then the unconditional."""
    cond, uncond = logits.chunk(2)
    return cond + GUIDANCE * (cond - uncond)


def shared_candidates(want: Tensor, have: Tensor) -> Tensor:
    """The share of the top candidates that two sets of logits have in common."""
    chosen = torch.zeros_like(want, dtype=torch.bool).scatter_(
        -1, want.topk(TOP_K).indices, value=True
    )
    return chosen.gather(-1, have.topk(TOP_K).indices).float().mean(-1)


def _masked(values: Values, lengths: NDArray[np.int32]) -> Values:
    """(rows, heads, text, dim) with padded positions, whose values mean nothing, at zero."""
    real = np.arange(values.shape[2]) < lengths[:, None]
    masked: Values = values * real[:, None, :, None]
    return masked


def _filled(module: Module, weights: Mapping[str, Weight], prefix: str = "") -> Module:
    """A module with its weights, in float32."""
    load_weights(module, weights, prefix, torch.float32)
    return module.eval()
