"""Where a step's time goes, by kind of operator, from onnxruntime's profile."""

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmark.decoding import artifact_decoder, time_steps
from benchmark.settings import WARM_UP_STEPS, Settings
from dia_ort.providers import onnxruntime, session_options

CAUSES = {
    "products": ("MatMulNBits", "MatMulIntegerToFloat", "MatMul", "FusedMatMul", "Gemm"),
    "self-attention": ("GroupQueryAttention",),
    "cross-attention": ("MultiHeadAttention",),
    "norms": ("RMSNormalization", "SimplifiedLayerNormalization"),
    "elementwise": (
        *("Abs", "ReduceMax", "Max", "Div", "QuantizeLinear"),  # rounding activations
        *("Mul", "Add", "Sigmoid", "QuickGelu"),
    ),
}
"""Operators of each cause; "other" has the rest (slices, concatenations, lookups)."""
OTHER = "other"

_CAUSE_OF = {operator: cause for cause, operators in CAUSES.items() for operator in operators}


def causes(settings: Settings, folder: Path) -> dict[str, Any]:
    """Profile steps of one utterance.

    Returns:
        Milliseconds a step for each of :data:`CAUSES` and for "other": the sum, over the nodes, of
        the median of a node's calls.
    """
    decoder = artifact_decoder(folder)
    with tempfile.TemporaryDirectory() as scratch:
        options = session_options(settings.threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "step")
        session = onnxruntime().InferenceSession(
            str(decoder.path), options, providers=["CPUExecutionProvider"]
        )
        time_steps(settings, decoder, session)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    calls: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            operator = event["args"]["op_name"]
            calls[event["name"], operator].append(event["dur"] / 1e3)
    figures = dict.fromkeys((*CAUSES, OTHER), 0.0)
    for (_, operator), durations in calls.items():
        figures[_CAUSE_OF.get(operator, OTHER)] += median(durations[WARM_UP_STEPS:])
    return figures
