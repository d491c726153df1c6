"""What each ``--dtype`` means: how weights are stored, and what a graph computes in.

The codec is the same in every artifact: it computes in float32 and keeps its weights as precise as
the checkpoint has them, because rounding them changes the codes of a voice.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Dtype = Literal["fp32", "fp16", "bf16", "int8", "int4"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """Block-wise quantisation of every linear weight of the text encoder and the decoder.

    Attributes:
        bits: Of each weight.
        block_size: Inputs that share a scale.
        logits_bits: Of the logits head; it decides which token wins, and is 1.5% of the weights.
    """

    bits: int
    block_size: int
    logits_bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an artifact of one dtype is made.

    Attributes:
        dtype: The name on the command line.
        storage: Dtype of the matrices that are not quantised, embeddings among them. Vectors
            (norms, biases, Snake's alpha) always stay float32.
        compute: What the text encoder and the decoder compute in, one graph each, the first being
            the one meant. A half-precision artifact has a float32 twin over the same weight file
            for the CPU provider, which has no half-precision kernels worth running.
        quantization: None where nothing is quantised.
    """

    dtype: Dtype
    storage: str
    compute: tuple[str, ...]
    quantization: Quantization | None = None


RECIPES: dict[Dtype, Recipe] = {
    "fp32": Recipe(dtype="fp32", storage="float32", compute=("float32",)),
    "fp16": Recipe(
        dtype="fp16",
        storage="float16",
        compute=("float16", "float32"),
    ),
    "bf16": Recipe(
        dtype="bf16",
        storage="bfloat16",
        compute=("bfloat16", "float32"),
    ),
    "int8": Recipe(
        dtype="int8",
        storage="float16",
        compute=("float32",),
        quantization=Quantization(bits=8, block_size=128, logits_bits=8),
    ),
    "int4": Recipe(
        dtype="int4",
        storage="float16",
        compute=("float32",),
        quantization=Quantization(bits=4, block_size=128, logits_bits=8),
    ),
}
