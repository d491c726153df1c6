"""Dia: load an exported model, and speak."""

import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dia_ort.artifacts import Artifact, check_unchanged, find_artifact
from dia_ort.audio import Audio, AudioChunk, prepare_audio
from dia_ort.buffers import Value
from dia_ort.checks import check_threads, check_whole
from dia_ort.codec import CHUNK_FRAMES, check_codes, check_context, encode_samples
from dia_ort.config import GenerationConfig, check_config
from dia_ort.decoder import DecoderBatch, few_sizes, slot_bytes
from dia_ort.errors import (
    ArtifactNotFoundError,
    InvalidAudioError,
    InvalidConfigError,
    InvalidTextError,
    warn_caller,
)
from dia_ort.generation import Utterance
from dia_ort.graphs import DECODER, ENCODER, GraphName
from dia_ort.manifest import GraphInfo, Manifest
from dia_ort.placement import choose_file, open_dac_decoder, open_dac_encoder, open_graph, place
from dia_ort.providers import Provider, resolve_provider
from dia_ort.scheduler import Request, Scheduler
from dia_ort.script import find_marks, fix_tags
from dia_ort.streams import Generation
from dia_ort.text import encode_text, has_speaker_tag
from dia_ort.voice import NO_TRANSCRIPT, Voice, check_voice

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Dia:
    """An exported Dia, ready to speak. Make one with :meth:`load`.

    Attributes:
        artifact: The model on disk, with its manifest.
        provider: The execution provider in use.
    """

    def __init__(self, artifact: Artifact, provider: Provider, threads: int | None = None) -> None:
        self.artifact = artifact
        self.provider = provider
        self._threads = threads
        self._decoder_info = self._choose(DECODER)
        encoder = self._open(self._choose(ENCODER), prepack=False)
        self._unconditional = self._run_encoder(encoder, np.zeros(1, np.int64), 1)
        # On the CPU it takes 0.4 GB, and 0.06 s to open it again for the next script.
        self._encoder = None if self._encoder_place[0] == "cpu" else encoder
        self._decoder = self._open(self._decoder_info)
        self._dac_decoder = open_dac_decoder(artifact, provider, threads)
        self._idle_decoder: deque[DecoderBatch] = deque(maxlen=1)  # kept from call to call

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        provider: str = "auto",
        provider_options: Mapping[str, Any] | None = None,
        threads: int | None = None,
        revision: str | None = None,
    ) -> Self:
        """Load an exported model.

        Args:
            model: A folder, the name of an exported model, ``"demo"``, or a hub id; None takes
                the newest exported model, and the demo where there is none; it warns of those
                that it cannot read.
            provider: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"webgpu"``, ``"coreml"``, or
                onnxruntime's name of any other that it has, as ``"openvino"``. What is asked for
                by name is taken or refused; ``auto`` takes CUDA if onnxruntime has it, else the
                CPU.
            provider_options: For the provider, as onnxruntime names them, over dia-ort's own.
            threads: CPU threads for one operator, 1 to 1024; None: all physical cores. More than
                this process may use are warned of. The codec takes 8 of them at most, and for None
                of those that the process may use.
            revision: Of a hub id.

        Raises:
            ArtifactNotFoundError: There is no such model, or its name is empty; or a revision is
                given for one that is not on the hub.
            ArtifactError: Its files are not what its manifest says.
            ProviderError: The provider (or onnxruntime) is not to be had here.
            InvalidConfigError: There is no provider of that name, or it takes no options; or
                ``threads`` is out of its range.
        """
        if model is not None and not (isinstance(model, str | os.PathLike) and os.fspath(model)):
            raise ArtifactNotFoundError(
                f"{model!r} names no model: give a name or a folder, or None for the newest."
            )
        chosen = resolve_provider(provider, provider_options)
        threads = check_threads(threads)
        return cls(find_artifact(model, revision), chosen, threads)

    def __repr__(self) -> str:
        name, dtype = self.artifact.name, self.manifest.dtype
        return f"Dia({name!r}, dtype={dtype!r}, provider={self.provider.name!r})"

    @property
    def manifest(self) -> Manifest:
        """What the artifact says of itself."""
        return self.artifact.manifest

    @property
    def sample_rate(self) -> int:
        """Of all audio, in hertz."""
        return self.manifest.codec.sample_rate

    def generate(
        self, text: str, config: GenerationConfig | None = None, voice: Voice | None = None
    ) -> Audio:
        """Speak a script. The samples are :meth:`stream`'s chunks, joined, but for rounding.

        Args:
            text: With [S1] and [S2] before the speakers' turns, and non-verbals as (laughs). The
                model gets it as it stands; what only :func:`dia_ort.narrate` reads, such as
                [pause 1s], is warned of.
            config: Settings; None takes upstream's defaults.
            voice: To go on in; its transcript goes before the text, its audio is not returned.

        Raises:
            InvalidTextError: The text is empty, too long, or not encodable, or has the tag of a
                third speaker.
            InvalidConfigError: The settings do not fit the model or the voice, or are no
                :class:`GenerationConfig`.
            InvalidAudioError: The voice was made with another codec, is too long, or is no
                :class:`Voice`.
            NumericalError: The logits are not finite.
        """
        return self._speak([self._request(text, config, voice)], 1)[0]

    def generate_batch(
        self,
        texts: Sequence[str],
        config: GenerationConfig | None = None,
        voice: Voice | None = None,
        *,
        max_batch: int = 8,
    ) -> list[Audio]:
        """Speak several scripts at once; on the CPU provider each comes out as alone, bit for bit.

        Args:
            texts: The scripts. All are checked before the first is begun.
            config: For all of them; the same seed for each.
            voice: For all of them.
            max_batch: How many to run at once.

        Raises:
            InvalidTextError, InvalidConfigError, InvalidAudioError, NumericalError: As in
                :meth:`generate`; of a text, with its index. Or ``texts`` is one text, or
                ``max_batch`` less than 1.
        """
        if isinstance(texts, str):
            raise InvalidConfigError("texts is one str: give a list of them, or call generate.")
        max_batch = check_whole("max_batch", max_batch, 1)
        requests = []
        for index, text in enumerate(texts):
            try:
                requests.append(self._request(text, config, voice))
            except InvalidTextError as error:
                raise InvalidTextError(f"texts[{index}]: {error}") from error
        return self._speak(requests, max_batch)

    def generate_codes(
        self, text: str, config: GenerationConfig | None = None, voice: Voice | None = None
    ) -> NDArray[np.int64]:
        """The codes of a script without their audio, (frames, channels).

        Raises:
            InvalidTextError, InvalidConfigError, InvalidAudioError, NumericalError: As in
                :meth:`generate`.
        """
        generation = self.start(text, config, voice)
        for _ in generation:
            pass
        return generation.codes

    def start(
        self, text: str, config: GenerationConfig | None = None, voice: Voice | None = None
    ) -> Generation:
        """Begin to speak a script, to be driven step by step; see :class:`Generation`.

        Raises:
            InvalidTextError, InvalidConfigError, InvalidAudioError: As in :meth:`generate`.
        """
        request = self._request(text, config, voice)
        steps = self._run([request], 1)
        return Generation(request.utterance, steps, self.decode_codes, self.manifest.codec)

    def stream(
        self,
        text: str,
        config: GenerationConfig | None = None,
        voice: Voice | None = None,
        *,
        chunk_frames: Sequence[int] = CHUNK_FRAMES,
    ) -> Generator[AudioChunk, None, None]:
        """Speak a script, chunk by chunk as it is spoken.

        Joined, the chunks are the samples of :meth:`generate` within 1e-5. That is quicker, as it
        decodes in larger windows.

        It runs in the caller's thread, between one chunk and the next, and ends with the loop. With
        :meth:`start` before :meth:`Generation.stream`, the codes and the seed can be had too.

        The first chunk is there after ``max_delay + context_frames + chunk_frames[0]`` steps: the
        last channel's delay, the codec's look-ahead, and the chunk's own frames. In Dia-1.6B these
        are 15 + 10 + 4 = 29. From then on, a second of audio costs the same however long it lasts:
        nothing is decoded again but ``context_frames`` on either side of a chunk.

        Args:
            text: As in :meth:`generate`.
            config: As in :meth:`generate`.
            voice: As in :meth:`generate`.
            chunk_frames: Frames of the first chunk, the second, and so on; the last number counts
                for all that follow. Small ones are there sooner, large ones take less decoding.

        Raises:
            InvalidTextError, InvalidConfigError, InvalidAudioError: As in :meth:`generate`, at
                once; or ``chunk_frames`` has no numbers, or some are less than 1.
            NumericalError: The logits are not finite; from the loop.
        """
        return self.start(text, config, voice).stream(chunk_frames)

    def astream(
        self,
        text: str,
        config: GenerationConfig | None = None,
        voice: Voice | None = None,
        *,
        chunk_frames: Sequence[int] = CHUNK_FRAMES,
    ) -> AsyncGenerator[AudioChunk, None]:
        """:meth:`stream` for ``async for``; the work is done in a thread, which ends with it.

        When its task is cancelled, or it is closed, the thread finishes a step or a chunk, frees
        everything and ends; nobody waits for it. Many at once are for :class:`dia_ort.Engine`,
        which runs them together.

        Args:
            text: As in :meth:`generate`.
            config: As in :meth:`generate`.
            voice: As in :meth:`generate`.
            chunk_frames: As in :meth:`stream`.

        Raises:
            InvalidTextError, InvalidConfigError, InvalidAudioError, NumericalError: As in
                :meth:`stream`.
        """
        return self.start(text, config, voice).astream(chunk_frames)

    def decode_codes(
        self,
        codes: NDArray[np.integer],
        context: tuple[int, int] = (0, 0),
        *,
        on_window: Callable[[], None] | None = None,
    ) -> NDArray[np.float32]:
        """Codes, (frames, channels), to mono samples, (frames * hop_length,).

        Args:
            codes: Of this model's codec.
            context: How many frames at the beginning and at the end are there for their neighbours
                alone, and are not to be heard: ``CodecSpec.context_frames`` of either make a part
                of a speech sound as it does in the whole.
            on_window: Called before every window of 256 frames, and on the CPU of 32 or fewer, in
                whatever thread; what it raises ends the decoding.

        Raises:
            InvalidAudioError: They are no codes of this model's codec.
            InvalidConfigError: The context is no two numbers of them.
        """
        checked = check_codes(codes, self.manifest.codec)
        return self._dac_decoder.decode(checked, check_context(context, len(checked)), on_window)

    def encode_audio(self, samples: NDArray[Any], sample_rate: int) -> NDArray[np.int64]:
        """Samples to codes, (frames, channels), for a :class:`Voice`.

        Args:
            samples: (samples,) or (samples, channels), floating point from -1 to 1, or int16 or
                int32 at full scale; made mono and resampled to the codec's rate.
            sample_rate: In hertz.

        Raises:
            InvalidAudioError: The samples are not such audio, or longer than the model can take.
            ArtifactError: The model was exported again since it was loaded.
        """
        codec, model = self.manifest.codec, self.manifest.model
        mono = prepare_audio(samples, sample_rate, codec.sample_rate)
        limit = model.max_prompt * codec.hop_length
        if len(mono) > limit:
            raise InvalidAudioError(
                f"the audio is {len(mono) / codec.sample_rate:.0f} s long, and the model takes at "
                f"most {limit / codec.sample_rate:.0f} s: cut it to 5 to 10 s of clear speech."
            )

        return encode_samples(self._dac_encoder, mono, codec)

    def encode_tokens(self, tokens: NDArray[np.int64]) -> list[Value]:
        """A script's tokens, (text,), to what :meth:`DecoderBatch.set_text` takes.

        Raises:
            ArtifactError: The model was exported again since it was loaded.
        """
        if self._encoder:
            size = few_sizes(len(tokens), self.manifest.model)
            return self._run_encoder(self._encoder, tokens, size)
        encoder = self._open_later(partial(self._open, self._choose(ENCODER), prepack=False))
        return self._run_encoder(encoder, tokens, len(tokens))

    def open_decoder(self, slots: int) -> DecoderBatch:
        """The decoder's state for so many utterances: for those who step it themselves."""
        with self.provider.alone:
            return DecoderBatch(
                self._decoder,
                self.manifest.model,
                self.provider,
                *self._dtypes,
                slots=slots,
                unconditional=self._unconditional,
            )

    @property
    def _dtypes(self) -> tuple[str, str]:
        """Of the decoder's cross-attention and of its cache."""
        info = self._decoder_info
        return info.compute, self.manifest.cache_of(info) or info.compute

    def _request(self, text: str, config: GenerationConfig | None, voice: Voice | None) -> Request:
        """Check what is to be spoken."""
        config = check_config(config)
        check_voice(voice)
        model, codec = self.manifest.model, self.manifest.codec
        prompt = np.zeros((0, model.num_channels), np.int64)
        if voice is not None:
            voice.check_codec(self.manifest.codec_id)
            prompt = check_codes(voice.codes, codec)
            if len(prompt) > model.max_prompt:
                raise InvalidAudioError(
                    f"the voice has {len(prompt)} frames, and the model takes at most "
                    f"{model.max_prompt}: cut it to 5 to 10 s of clear speech."
                )
        tokens = encode_text(text, model.max_text, model.text_vocab_size)
        fix_tags(text)  # refuses a third speaker's
        if marks := find_marks(text):
            warn_caller(
                f"the text has {', '.join(map(repr, marks))}, which the model takes for words: "
                "dia_ort.narrate reads such marks; or write [S1] and [S2], and leave out the rest."
            )
        if not has_speaker_tag(text):
            warn_caller(
                "the text has no [S1] or [S2]; Dia was trained on scripts that begin with [S1]."
            )
        if voice is not None:
            if not voice.transcript.strip():
                warn_caller(NO_TRANSCRIPT)
            tokens = encode_text(
                voice.script(text),
                model.max_text,
                model.text_vocab_size,
                name="script (the voice's transcript, then the text)",
            )
        utterance = Utterance(model, config, prompt, text, self.manifest.codec_id)
        memory = slot_bytes(model, *self._dtypes, utterance.max_tokens, len(tokens))
        return Request(tokens, utterance, memory)

    def _speak(self, requests: Sequence[Request], max_batch: int) -> list[Audio]:
        for _ in self._run(requests, max_batch):
            pass
        utterances = [request.utterance for request in requests]
        return [
            utterance.audio(self.decode_codes(utterance.codes), self.sample_rate)
            for utterance in utterances
        ]

    def _run(self, requests: Sequence[Request], max_batch: int) -> Iterator[None]:
        """Run requests in the caller's thread; yields after every step. The first error ends it."""
        if not requests:
            return
        slots = min(max_batch, len(requests))
        decoder = self._take_decoder(slots)
        scheduler = Scheduler(decoder, self.manifest.model, self.encode_tokens, slots=slots)
        for request in requests:
            scheduler.add(request)
        try:
            while not scheduler.idle:
                for request in scheduler.tick():
                    if request.error:
                        raise request.error
                yield
        except GeneratorExit:  # left between two steps; after an error it may not be whole
            for request in requests:
                scheduler.cancel(request)
            self._idle_decoder.append(decoder)
            raise
        self._idle_decoder.append(decoder)

    def _take_decoder(self, slots: int) -> DecoderBatch:
        """The decoder of an earlier call if it has the slots and no other thread has it."""
        with suppress(IndexError):
            decoder = self._idle_decoder.pop()
            if decoder.slots >= slots:
                return decoder
            del decoder  # before there is another one
        return self.open_decoder(slots)

    def _choose(self, graph: GraphName) -> GraphInfo:
        """The file of a graph that is run; warns where the provider is not what it was made for."""
        manifest = self.manifest
        info = choose_file(manifest, graph, self.provider)
        if graph == DECODER and info.compute == "float32" and manifest.dtype in {"fp16", "bf16"}:
            warn_caller(_slow_in_float32(manifest, self.provider))
        return info

    def _open(self, info: GraphInfo, *, prepack: bool = True) -> Any:
        return open_graph(self.artifact, info, self.provider, self._threads, prepack=prepack)

    @property
    def _encoder_place(self) -> tuple[str, int]:
        return place(self.manifest, self._choose(ENCODER), self.provider).place

    def _run_encoder(self, encoder: Any, tokens: NDArray[np.int64], size: int) -> list[Value]:
        """The text encoder's outputs in graph order, (1, heads, size, head_dim), on the device."""
        where, binding = self._encoder_place, encoder.io_binding()
        binding.bind_cpu_input("tokens", np.pad(tokens, (0, size - len(tokens)))[None])
        binding.bind_cpu_input("text_lengths", np.array([len(tokens)], np.int32))
        for output in encoder.get_outputs():
            binding.bind_output(output.name, *where)
        with self.provider.alone:
            encoder.run_with_iobinding(binding)
        if where[0] == "cpu":
            return list(binding.copy_outputs_to_cpu())
        return list(binding.get_outputs())

    @cached_property
    def _dac_encoder(self) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """The DAC encoder; only voices need it, so it is loaded when the first one is made."""
        return self._open_later(
            partial(open_dac_encoder, self.artifact, self.provider, self._threads)
        )

    def _open_later(self, call: Callable[[], T]) -> T:
        """Open a graph beside those that are open; all are to be of one export."""
        try:
            return call()
        finally:  # if it fails, that is why
            check_unchanged(self.artifact)


def _slow_in_float32(manifest: Manifest, provider: Provider) -> str:
    size = sum(file.size for file in manifest.files.values()) / 1e9
    return (
        f"this {manifest.dtype} model ({size:.1f} GB) is made for GPUs: the {provider.name} "
        "provider widens its weights to float32, which is slow and takes twice the memory. Take "
        "int8 or int4 here (dia-export --dtype int4)."
    )
