"""The loop over a decoder that is exact: a hash in place of a model."""

import dataclasses
import hashlib

import numpy as np
import pytest

from dia_ort.artifacts import find_artifact
from dia_ort.config import GenerationConfig
from dia_ort.generation import Utterance, run_batch

MODEL = dataclasses.replace(find_artifact("demo").manifest.model, max_steps=400)


class HashDecoder:
    """Logits from a hash of a slot's script and of all tokens that it was given."""

    def __init__(self, scripts, rows_per_slot):
        self.rows_per_slot = rows_per_slot
        self.widths = []
        self._states = [hashlib.sha256(script.encode()) for script in scripts]
        self._positions = [0] * len(scripts)

    def prefill(self, slot, tokens):
        for row in tokens:
            self._take(slot, row)

    def step(self, tokens, positions):
        self.widths.append(len(tokens))
        logits = np.empty(
            (len(tokens), self.rows_per_slot, MODEL.num_channels, MODEL.vocab_size), np.float32
        )
        for slot, (row, position) in enumerate(zip(tokens, positions, strict=True)):
            assert position == self._positions[slot]
            self._take(slot, row)
            random = np.random.default_rng(list(self._states[slot].digest()))
            logits[slot] = random.normal(0, 3, logits.shape[1:])
            logits[slot, :, 0, MODEL.eos_token_id] += position / 20 - 4
        return logits

    def move(self, source, target):
        self._states[target] = self._states[source].copy()
        self._positions[target] = self._positions[source]

    def _take(self, slot, row):
        self._states[slot].update(np.asarray(row, np.int64).tobytes())
        self._positions[slot] += 1


def prompt_of(frames):
    return np.random.default_rng(frames).integers(0, 1024, (frames, MODEL.num_channels))


def run(requests, rows_per_slot):
    """Run (script, config, prompt frames) together."""
    utterances = [Utterance(MODEL, config, prompt_of(frames)) for _, config, frames in requests]
    decoder = HashDecoder([script for script, _, _ in requests], rows_per_slot)
    running = list(run_batch(decoder, MODEL, utterances))
    assert running[-1] == 0
    assert decoder.widths == sorted(decoder.widths, reverse=True)
    return utterances


@pytest.mark.parametrize("cfg_scale", [0.0, 3.0])
def test_a_batch_is_what_each_is_alone(cfg_scale):
    """Bit for bit, whoever ends first and moves where, with and without a voice before."""
    requests = [
        (
            f"script {i}",
            GenerationConfig(
                seed=i, cfg_scale=cfg_scale, temperature=0.5 + 0.2 * i, max_tokens=90 + 40 * (i % 4)
            ),
            (0, 7, 30)[i % 3],
        )
        for i in range(7)
    ]
    rows = 2 if cfg_scale else 1
    together = run(requests, rows)
    alone = [run([request], rows)[0] for request in requests]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one.codes, other.codes)
        assert (one.finish_reason, one.position) == (other.finish_reason, other.position)
    assert {utterance.finish_reason for utterance in together} == {"eos", "length"}
    assert len({len(utterance.codes) for utterance in together}) > 3


def test_an_early_end_leaves_the_complete_frames():
    """Whenever the loop is left, the frames so far are the first of those there would be."""
    config = GenerationConfig(seed=1, max_tokens=80)
    whole = run([("script", config, 5)], 2)[0].codes
    utterance = Utterance(MODEL, config, prompt_of(5))
    counts = []
    for _ in run_batch(HashDecoder(["script"], 2), MODEL, [utterance]):
        counts.append(utterance.num_frames)
        assert np.array_equal(utterance.codes, whole[: counts[-1]])
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == len(whole)
