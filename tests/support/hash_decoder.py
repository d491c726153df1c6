"""A decoder that is exact: a hash of all that an utterance was given, in place of a model."""

import dataclasses
import hashlib
import time
from collections import deque

import numpy as np

from dia_ort.artifacts import find_artifact
from dia_ort.dia import Dia
from dia_ort.engine import Engine
from dia_ort.providers import Provider
from dia_ort.sampling import choose
from dia_ort.scheduler import PREFILL_STEPS

DEMO = find_artifact("demo").manifest
MODEL = dataclasses.replace(
    DEMO.model,
    num_channels=3,
    delay_pattern=(0, 2, 3),
    vocab_size=28,
    eos_token_id=24,
    pad_token_id=25,
    bos_token_id=26,
    max_steps=400,
)
CODEC = dataclasses.replace(
    DEMO.codec, num_codebooks=3, codebook_size=24, hop_length=4, context_frames=5
)
BROKEN = "[S1] broken"
"""Its encoding fails."""
SPOILT = "[S1] spoilt"
"""Its logits are NaN from the 21st step on."""
MUTE = "[S1] mute"
"""It ends at once."""


def encode(script):
    """Stands for the text encoder."""
    if bytes(script.astype(np.uint8)).endswith(b"broken"):
        raise RuntimeError("the encoder failed")
    return [script[None, None, :, None]]


class HashDecoder:
    """Logits from a hash of a slot's script and of all its tokens; checks how it is used.

    Attributes:
        log: The calls, as tuples that begin with their names.
        used: The scripts in each slot, None where it is free.
    """

    has_plans = False

    def __init__(self, slots, model=MODEL):
        self.slots = slots
        self.log = []
        self.used = [None] * slots
        self._model = model
        self._states = [None] * slots
        self._positions = [0] * slots

    def set_text(self, slot, cross, length):
        script = bytes(cross[0].astype(np.uint8))
        assert len(script) == length
        assert self.used[slot] is None
        assert None not in self.used[:slot]
        self.used[slot] = script
        self._states[slot], self._positions[slot] = hashlib.sha256(script), 0
        self.log.append(("set_text", slot))

    def prefill(self, slot, tokens, start):
        assert start == self._positions[slot]
        assert start % PREFILL_STEPS == 0
        assert 0 < len(tokens) <= PREFILL_STEPS
        self._take(slot, tokens)
        self.log.append(("prefill", slot))

    def step(self, tokens, positions):
        shape = (len(tokens), 2, self._model.num_channels, self._model.vocab_size)
        logits = np.empty(shape, np.float32)
        for slot, (row, position) in enumerate(zip(tokens, positions, strict=True)):
            assert position == self._positions[slot]
            self._take(slot, row[None])
            random = np.random.default_rng(list(self._states[slot].digest()))
            logits[slot] = random.normal(0, 3, shape[1:])
            logits[slot, :, 0, self._model.eos_token_id] += position / 20 - 4
            if self.used[slot].endswith(b"mute"):
                logits[slot, :, 0, self._model.eos_token_id] = 1000
            if self.used[slot].endswith(b"spoilt") and position > 20:
                logits[slot, 0, 1, 2] = np.nan
        self.log.append(("step", len(tokens)))
        return logits

    def choose(self, tokens, positions, params):
        logits, eos = self.step(tokens, positions), self._model.eos_token_id
        rules = {"release": self._model.release, "eos_token_id": eos}
        return choose(logits[:, 0], logits[:, 1], params, **rules)

    def move(self, source, target):
        assert self.used[source] is not None
        for values in (self.used, self._states, self._positions):
            values[target] = values[source]
        self.used[source] = None

    def release(self, slot):
        self.used[slot] = None

    def _take(self, slot, tokens):
        assert tokens.min() >= 0
        self._states[slot].update(np.ascontiguousarray(tokens, np.int64).tobytes())
        self._positions[slot] += len(tokens)


class HashDia(Dia):
    """A Dia of hashes.

    Attributes:
        decoders: All that were opened.
        pause: Steps at this position or beyond wait until it is changed; None: none do.
        death: What the next step raises, if anything.
    """

    manifest = dataclasses.replace(DEMO, model=MODEL, codec=CODEC)
    provider = Provider("cpu")
    _dtypes = ("float32", "float32")

    def __init__(self):
        self._idle_decoder = deque(maxlen=1)
        self.decoders = []
        self.pause = None
        self.death = None

    def open_decoder(self, slots):
        decoder = HashDecoder(slots)
        step = decoder.step

        def gated(tokens, positions):
            while self.pause is not None and positions.max() >= self.pause:
                time.sleep(0.001)
            if self.death:
                raise self.death
            return step(tokens, positions)

        decoder.step = gated
        self.decoders.append(decoder)
        return decoder

    def encode_tokens(self, tokens):
        return encode(tokens)

    def decode_codes(self, codes, context=(0, 0), *, on_window=None):
        """Samples that depend on as many frames as the codec's context is long."""
        if on_window:
            on_window()
        reach, hop = CODEC.context_frames, CODEC.hop_length
        padded = np.pad(codes.sum(axis=1), reach)
        sums = np.convolve(padded, np.arange(1, 2 * reach + 2), "valid")
        heard = sums[context[0] : len(codes) - context[1]] if len(codes) else []
        return np.repeat(heard, hop).astype(np.float32)


class SlowDia(HashDia):
    """At 20 frames of 4 samples to the second."""

    manifest = dataclasses.replace(
        DEMO, model=MODEL, codec=dataclasses.replace(CODEC, sample_rate=80)
    )


class Recorder(Engine):
    """Notes what is submitted.

    Attributes:
        submitted: Texts, configs and voices.
        handles: What came of them.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.submitted = []
        self.handles = []

    def submit(self, text, config=None, voice=None):
        self.submitted.append((text, config, voice))
        self.handles.append(super().submit(text, config, voice))
        return self.handles[-1]

    def voices(self):
        """By text; the last attempt's."""
        return {text: voice for text, _, voice in self.submitted}
