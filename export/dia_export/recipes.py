"""What each ``--dtype`` means: how weights are stored, and what a graph computes in.

The codec is the same in every artifact: it computes in float32 and keeps its weights as precise as
the checkpoint has them, because rounding them changes the codes of a voice.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from dia_ort.manifest import Blocks, Compute

Dtype = Literal["fp32", "fp16", "bf16", "int8", "int4"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an artifact of one dtype is made.

    Attributes:
        dtype: The name on the command line.
        storage: Dtype of the matrices that are not quantised. Vectors (norms, biases) always stay
            float32.
        compute: What the text encoder and the decoder compute in, one graph each, the first being
            the one meant. The others are its twins over the same weight file: float32 for the CPU
            provider, which has no half-precision kernels worth running, and float16 for GPUs, where
            the cached attention has no other.
        quantization: Of the linear weights of the ``encoder`` and the ``decoder``, of the
            decoder's ``logits`` head, and of every ``embedding``; what is not named is not
            quantised.
        cache: Dtype of the decoder's key/value cache; None: what the graph computes in.
    """

    dtype: Dtype
    storage: str
    compute: tuple[Compute, ...]
    quantization: dict[str, Blocks] = field(default_factory=dict)
    cache: Literal["int8"] | None = None


def _quantized(dtype: Dtype, decoder: Blocks) -> Recipe:
    """A recipe whose decoder, nearly all of what a step reads, is quantised as given.

    The rest stays at 8 bits: the text encoder runs once per script, the logits head decides which
    token wins (and is 1.5% of the weights), and embeddings are looked up, not read through.
    """
    whole = Blocks(bits=8, block_size=None)
    return Recipe(
        dtype=dtype,
        storage="float16",
        compute=("float32", "float16"),
        quantization={
            "encoder": whole,
            "decoder": decoder,
            "logits": whole,
            "embedding": Blocks(bits=8, block_size=32),
        },
        cache="int8",
    )


RECIPES: dict[Dtype, Recipe] = {
    "fp32": Recipe(dtype="fp32", storage="float32", compute=("float32",)),
    "fp16": Recipe(dtype="fp16", storage="float16", compute=("float16", "float32")),
    "bf16": Recipe(dtype="bf16", storage="bfloat16", compute=("bfloat16", "float32")),
    "int8": _quantized("int8", Blocks(bits=8, block_size=None)),
    "int4": _quantized("int4", Blocks(bits=4, block_size=128)),
}
