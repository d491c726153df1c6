"""A recogniser of connected words: dynamic programming over templates of the words."""

import numpy as np
from numpy.typing import NDArray

from demo_voice.acoustics import Samples, features
from demo_voice.clips import Clip, Clips

_STRETCH = 0.03
"""What it costs to stay on a frame of a template, or to leave one out."""

_NEW_WORD = 0.8
"""What it costs to begin a word: more, and words are missed; less, and there are spurious ones."""

_SILENCE = 4  # frames


class Recogniser:
    """Hears words in speech of the two voices.

    Args:
        clips: Recordings that the templates are cut from.
        per_word: So many templates of each word and speaker, in contexts that chance chooses.
        seed: Of that.
    """

    def __init__(self, clips: Clips, per_word: int = 8, seed: int = 0) -> None:
        names, templates = (
            [""],
            [np.full((_SILENCE, features(np.zeros(1, np.float32)).shape[1]), -3.0)],
        )
        random = np.random.default_rng(seed)
        for (word, _), places in sorted(_places(clips).items()):
            for index in random.permutation(len(places))[:per_word]:
                clip, start, stop = places[index]
                names.append(word)
                templates.append(features(clips.audio(clip))[start:stop])
        lengths = np.array([len(template) for template in templates])
        self._names = names
        self._templates = np.concatenate(templates).astype(np.float32)
        self._last = np.cumsum(lengths) - 1
        self._first = self._last - lengths + 1
        self._template_of = np.repeat(np.arange(len(names)), lengths)

    def words(self, samples: Samples) -> tuple[str, ...]:
        """What is said in a recording, float32, (samples,)."""
        states = len(self._templates)
        cost = np.full(states, np.inf, np.float32)
        history = np.zeros(states, np.int64)  # of the words before the one that a state is of
        heard: list[tuple[int, int]] = [(0, 0)]  # a template, and what was heard before it
        best, best_history = np.float32(0), 0
        first, second = self._first, np.minimum(self._first + 1, states - 1)
        for frame in features(samples):
            one = np.concatenate([[np.float32(np.inf)], cost[:-1]])
            one[first] = np.inf
            two = np.concatenate([np.full(2, np.inf, np.float32), cost[:-2]]) + _STRETCH
            two[first], two[second] = np.inf, np.inf
            ways = np.stack([cost + _STRETCH, one, two])
            way = ways.argmin(0)
            cost = ways.min(0)
            history = history[np.maximum(np.arange(states) - way, 0)]
            begins = best + _NEW_WORD < cost[first]
            cost[first[begins]] = best + _NEW_WORD
            history[first[begins]] = best_history
            cost += np.abs(self._templates - frame).mean(1)
            end = int(cost[self._last].argmin())
            best = cost[self._last[end]]
            heard.append((end, int(history[self._last[end]])))
            best_history = len(heard) - 1
        return self._trace(heard, best_history)

    def _trace(self, heard: list[tuple[int, int]], at: int) -> tuple[str, ...]:
        names = []
        while at:
            template, at = heard[at]
            names.append(self._names[template])
        return tuple(name for name in reversed(names) if name)


_Place = tuple[Clip, int, int]


def _places(clips: Clips) -> dict[tuple[str, int], list[_Place]]:
    """Where each word is said by each speaker: recordings, with the first frame and the end."""
    places: dict[tuple[str, int], list[_Place]] = {}
    for clip in clips.clips:
        edges = [*(round(start) for start in clip.starts), clip.frames]
        for number, word in enumerate(clip.sentence.words):
            place = (clip, edges[number], edges[number + 1])
            places.setdefault((word, clip.sentence.speaker), []).append(place)
    return places


def word_errors(said: tuple[str, ...], heard: tuple[str, ...]) -> int:
    """The fewest words to put in, leave out or replace to get from one to the other."""
    row: NDArray[np.int64] = np.arange(len(heard) + 1)
    for count, word in enumerate(said, 1):
        last, row = row, np.empty_like(row)
        row[0] = count
        for column, other in enumerate(heard, 1):
            row[column] = min(
                last[column - 1] + (word != other), last[column] + 1, row[column - 1] + 1
            )
    return int(row[-1])
