"""Guidance and the choice of candidates where the logits are: on a provider's device.

An utterance's logits are 74 KB a step; its candidates are 5. A graph of its own, `choose.onnx`, is
bound to the decoder's logits and does what :func:`dia_ort.sampling.choose` does, operation for
operation. Equal logits are in that order on the CPU alone: CUDA's TopK has its own.
"""

import numpy as np

from dia_ort.buffers import Buffer, Buffers
from dia_ort.graphs import ModelSpec
from dia_ort.providers import Provider, open_own_graph
from dia_ort.sampling import Candidates, SamplingParams, eos_factor, num_candidates


class DeviceChoice:
    """Chooses the candidates of a step.

    Args:
        provider: Whose device the logits are on.
        model: Shapes and rules.
        slots: The most utterances at once.
        buffers: Makes them there.
    """

    def __init__(self, provider: Provider, model: ModelSpec, slots: int, buffers: Buffers) -> None:
        self._model = model
        self._session = open_own_graph("choose.onnx", provider)
        self._binding = self._session.io_binding()
        self._scale = buffers.exchanged((slots, 1, 1), "float32")
        self._factor = buffers.exchanged((1, model.num_channels, model.vocab_size), "float32")
        self._factor.host[:] = 1
        self._factor.host[0, 0, model.eos_token_id] = eos_factor(model.release)
        self._factor.upload()
        self._params: SamplingParams | None = None  # as on the device
        self._packed = np.empty((0, 0, 0), np.float32)

    def choose(self, logits: Buffer, middle: int, params: SamplingParams) -> Candidates:
        """Choose the best tokens of the first slots; what is returned is valid until the next call.

        Args:
            logits: Of all rows, float32, (rows, 1, channels, vocabulary), on the device.
            middle: Where the conditional rows end and the unconditional ones begin.
            params: The settings of every slot.
        """
        if params is not self._params:
            self._bind(logits, middle, params)
        self._session.run_with_iobinding(self._binding)
        guided, cond, tokens = np.split(self._packed, 3, axis=-1)
        finite = np.isfinite(guided[:, 0, 0])
        return Candidates(tokens.astype(np.int64), guided, cond, finite)

    def _bind(self, logits: Buffer, middle: int, params: SamplingParams) -> None:
        model, slots = self._model, len(params.cfg_scale)
        vocab, channels = model.vocab_size, model.num_channels
        count = num_candidates(params.most, vocab, model.eos_token_id)
        self._packed = np.empty((slots, channels, 3 * count), np.float32)
        self._scale.host[:slots] = params.cfg_scale
        self._scale.upload()
        binding, shape = self._binding, (slots, channels, vocab)
        logits.bind_input(binding, "cond_reversed", middle - slots, slots, shape)
        logits.bind_input(binding, "uncond", middle, slots, shape)
        self._scale.bind_input(binding, "scale", 0, slots)
        self._factor.bind_input(binding, "factor", 0, 1)
        binding.bind_cpu_input("count", np.array([count], np.int64))
        address = self._packed.ctypes.data
        binding.bind_output("candidates", "cpu", 0, np.float32, self._packed.shape, address)
        self._params = params


def open_choice(
    provider: Provider, model: ModelSpec, slots: int, buffers: Buffers
) -> DeviceChoice | None:
    """What chooses where a provider has the logits; None: the host has them, or is given them."""
    on_host = provider.device == "cpu" or not provider.has_addresses
    return None if on_host else DeviceChoice(provider, model, slots, buffers)
