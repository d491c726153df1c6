"""The sampler against reference implementations: full-vocabulary, one row, in torch."""

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_ort.buffers import HostBuffer, open_buffers
from dia_ort.choice import DeviceChoice
from dia_ort.config import GenerationConfig
from dia_ort.providers import Provider
from dia_ort.sampling import NOT_FINITE, SamplingParams, choose, probabilities
from dia_ort.sampling import draw as draw_candidates

RELEASES = ["first", "0626"]
CHANNELS = 9
VOCAB = 1028
EOS = 1024

CONFIGS = [
    GenerationConfig(),
    GenerationConfig(temperature=1.8, top_p=0.9),
    GenerationConfig(temperature=0.3, cfg_scale=1.0),
    GenerationConfig(top_p=1.0, cfg_filter_top_k=5),
    GenerationConfig(top_p=0.0),
    GenerationConfig(cfg_scale=0.0, cfg_filter_top_k=VOCAB + 100, top_p=1.0),
    GenerationConfig(cfg_filter_top_k=1),
    GenerationConfig(temperature=0.0),
    GenerationConfig(temperature=1e-300),
]


def random_logits(rows, seed=0, vocab=VOCAB, channels=CHANNELS):
    rng = np.random.default_rng(seed)
    cond, uncond = 3 * rng.standard_normal((2, rows, channels, vocab)).astype(np.float32)
    return cond, cond + uncond / 4


@functools.cache
def device_choice(rows, channels, vocab, eos, release):
    """The CPU stands in for a device."""
    model = SimpleNamespace(
        num_channels=channels, vocab_size=vocab, eos_token_id=eos, release=release
    )
    provider = Provider("cpu")
    return DeviceChoice(provider, model, rows, open_buffers(provider))


def candidates(cond, uncond, params, release, eos=EOS):
    """NumPy's choice, after a look at whether the graph for devices makes the same."""
    chosen = choose(cond, uncond, params, release=release, eos_token_id=eos)
    rows, channels, vocab = cond.shape
    logits = HostBuffer((2 * rows, 1, channels, vocab), "float32")
    logits.host[:, 0] = np.concatenate([cond[::-1], uncond])
    found = device_choice(rows, channels, vocab, eos, release).choose(logits, rows, params)
    np.testing.assert_array_equal(found.finite, chosen.finite)
    for name in ("tokens", "guided", "cond"):
        have, want = getattr(found, name), getattr(chosen, name)
        assert have.dtype == want.dtype
        np.testing.assert_array_equal(have[chosen.finite], want[chosen.finite], err_msg=name)
    return chosen


def distribution_of_candidates(cond, uncond, configs, release, eos=EOS):
    params = SamplingParams.stack(configs)
    chosen = candidates(cond, uncond, params, release, eos)
    return probabilities(chosen, params, release=release, eos_token_id=eos)


def distribution(cond, uncond, configs, release, eos=EOS):
    """The probabilities of every token, ``(rows, channels, vocabulary)``."""
    tokens, weights = distribution_of_candidates(cond, uncond, configs, release, eos)
    full = np.zeros(cond.shape)
    for place in np.ndindex(cond.shape[:2]):
        np.add.at(full[place], tokens[place], weights[place])
    return full


def draw(cond, uncond, uniforms, configs, release, eos=EOS):
    params = SamplingParams.stack(configs)
    chosen = candidates(cond, uncond, params, release, eos)
    return draw_candidates(chosen, uniforms, params, release=release, eos_token_id=eos)


def best(logits, count):
    """The ``count`` greatest, the lower index first among equals."""
    return logits.sort(descending=True, stable=True).indices[:count]


def reference(cond, uncond, config, release, eos=EOS):
    """What upstream's code of each release does to one row, channel by channel."""
    torch = pytest.importorskip("torch")
    cond = torch.from_numpy(cond)
    guided = cond + config.cfg_scale * (cond - torch.from_numpy(uncond))
    rows = []
    for channel in range(len(cond)):
        logits = guided[channel].clone()
        first_barred = eos + 1 if channel == 0 else eos
        if release == "0626":
            kept = best(logits, config.cfg_filter_top_k)
            logits = torch.full_like(logits, -torch.inf)
            logits[kept] = cond[channel, kept]
        logits[first_barred:] = -torch.inf
        if release == "first" and channel == 0:
            logits[eos] *= 0.8
        rows.append(_reference_channel(logits, config, release, eos, torch))
    return torch.stack(rows).numpy()


def _reference_channel(logits, config, release, eos, torch):
    if config.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(), len(logits)).double()
    logits = logits.double() / config.temperature
    if logits.argmax() != eos:
        logits[eos] = -torch.inf
    elif release == "0626":
        logits[:eos] = -torch.inf
    outside = torch.ones(len(logits), dtype=torch.bool)
    outside[best(logits, config.cfg_filter_top_k)] = False
    logits[outside] = -torch.inf
    probabilities, order = logits.softmax(-1).sort(descending=True, stable=True)
    over = probabilities.cumsum(-1) > config.top_p
    if config.top_p < 1:
        logits[order[1:][over[:-1]]] = -torch.inf
    return logits.softmax(-1)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("guided", [True, False])
def test_the_distribution_is_upstreams(release, guided):
    configs = CONFIGS if guided else [dataclasses.replace(c, cfg_scale=0) for c in CONFIGS]
    for seed in range(3):
        cond, uncond = random_logits(len(CONFIGS), seed)
        cond[0::2, 0, EOS] += 12  # EOS the best, near it, or far from it
        cond[:6, :, EOS + 1] += 9  # PAD among the candidates, but not alone
        found = distribution(cond, uncond, configs, release)
        for row, config in enumerate(configs):
            expected = reference(cond[row], uncond[row], config, release)
            np.testing.assert_allclose(found[row], expected, atol=1e-12, err_msg=str(config))


@pytest.mark.parametrize("release", RELEASES)
def test_greedy_takes_upstreams_arg_max(release):
    torch = pytest.importorskip("torch")
    greedy = GenerationConfig(temperature=0)
    for seed in range(30):
        cond, uncond = random_logits(1, seed)
        cond[:, 0, EOS] += seed % 15
        tokens = draw(cond, uncond, np.full((1, CHANNELS), 0.999), [greedy], release)
        expected = torch.from_numpy(reference(cond[0], uncond[0], greedy, release)).argmax(-1)
        np.testing.assert_array_equal(tokens[0], expected)


@pytest.mark.parametrize("eos_bonus", [0.0, 6.0, 14.0])
def test_the_0626_distribution_is_transformers(eos_bonus):
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    for config in CONFIGS[:4]:
        cond, uncond = random_logits(2, seed=5)
        cond[:, 0, EOS] += eos_bonus
        processors = [
            process.DiaClassifierFreeGuidanceLogitsProcessor(3.0, config.cfg_filter_top_k),
            process.TemperatureLogitsWarper(config.temperature),
            process.DiaEOSChannelFilterLogitsProcessor(CHANNELS, EOS),
            process.TopKLogitsWarper(config.cfg_filter_top_k),
            process.TopPLogitsWarper(config.top_p),
        ]
        scores = torch.from_numpy(np.concatenate([cond, uncond]).reshape(-1, VOCAB))
        ids = torch.zeros(len(scores) // 2, 1, dtype=torch.long)
        for processor in processors:
            scores = processor(ids, scores)
        expected = scores.double().softmax(-1).reshape(cond.shape).numpy()
        guided = GenerationConfig(
            cfg_scale=3.0,
            temperature=config.temperature,
            top_p=config.top_p,
            cfg_filter_top_k=config.cfg_filter_top_k,
        )
        np.testing.assert_allclose(
            distribution(cond, uncond, [guided] * 2, "0626"), expected, atol=1e-6
        )


def channel_0(values, release, eos, uncond=None, **settings_):
    """The distribution of a single channel with the given logits."""
    cond = np.array(values, np.float32)[None, None]
    uncond = cond if uncond is None else np.array(uncond, np.float32)[None, None]
    config = GenerationConfig(**{"temperature": 1, "top_p": 1, **settings_})
    return distribution(cond, uncond, [config], release, eos)[0, 0]


def test_eos_as_the_best_bars_all_else_in_0626_alone():
    assert channel_0([1, 2, 3, 9], "0626", 2).tolist() == [0, 0, 1, 0]
    first = channel_0([1, 2, 3, 9], "first", 2)
    weights = np.exp([1, 2, 3 * 0.8])
    np.testing.assert_allclose(first, [*weights / weights.sum(), 0], atol=1e-7)


@pytest.mark.parametrize("release", RELEASES)
def test_eos_below_the_best_is_barred(release):
    weights = np.exp([1, 4])
    np.testing.assert_allclose(
        channel_0([1, 4, 3.9, 9], release, 2), [*weights / weights.sum(), 0, 0], atol=1e-7
    )


@pytest.mark.parametrize("release", RELEASES)
def test_eos_as_good_as_another_is_barred(release):
    eos_logit = {"0626": 4, "first": 5}[release]
    assert channel_0([1, 4, eos_logit, 9], release, 2)[2] == 0


def test_the_first_release_scales_negative_eos_logits_up():
    assert channel_0([-4.5, -5], "first", 1).argmax() == 1  # -5 * 0.8 is -4
    assert channel_0([-4.5, -5], "0626", 1).argmax() == 0


def test_guidance_chooses_and_cond_weighs_in_0626():
    cond, uncond = [2, 1, 0, -9], [3, 0, 0, 0]
    found = channel_0(cond, "0626", 3, uncond, cfg_scale=1, cfg_filter_top_k=2)
    weights = np.exp([1, 0])  # the guided logits are 1, 2, 0, -18
    np.testing.assert_allclose(found[:2], np.exp([2, 1]) / np.exp([2, 1]).sum(), atol=1e-7)
    found = channel_0(cond, "first", 3, uncond, cfg_scale=1, cfg_filter_top_k=2)
    np.testing.assert_allclose(found[[1, 0]], weights / weights.sum(), atol=1e-7)


@pytest.mark.parametrize("release", RELEASES)
def test_top_p_keeps_the_token_that_passes_the_threshold(release):
    logits = [*np.log([0.5, 0.3, 0.15, 0.05]), -99]
    for top_p, kept in [(0.0, 1), (0.49, 1), (0.6, 2), (0.79, 2), (0.9, 3), (1.0, 4)]:
        assert np.count_nonzero(channel_0(logits, release, 4, top_p=top_p)) == kept
    assert np.count_nonzero(channel_0([0, 0, 0, 0, -99], release, 4, top_p=0.5)) == 3


@pytest.mark.parametrize("release", RELEASES)
def test_ties_go_to_the_lower_token(release):
    found = channel_0([1, 5, 5, -0.0, 0.0, 5, -9], release, 6, cfg_filter_top_k=2)
    assert found.tolist() == [0, 0.5, 0.5, 0, 0, 0, 0]
    assert channel_0([1, 5, 5, 2, -9], release, 4, temperature=0).argmax() == 1
    found = channel_0([-0.0, -0.0, 0.0, -9], release, 3, cfg_filter_top_k=2)
    assert found.tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize("temperature", [0, 1])
def test_barred_candidates_alone_give_way_to_the_best_allowed_token(temperature):
    config = GenerationConfig(cfg_filter_top_k=2, temperature=temperature, cfg_scale=1)
    cond = np.array([[[0, 1, 2, 8, 9], [1, 0, 2, 8, 9], [3, 9, 0, 1, 0]]], np.float32)
    uncond = np.array([[[0, 0, 2, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]], np.float32)
    # PAD (3) and BOS (4) are the candidates; EOS (2) is allowed in channel 0 alone.
    found = distribution(cond, uncond, [config], "0626", eos=2)[0].argmax(axis=-1)
    assert found.tolist() == [1, 0, 1]
    cond[0, 0, 2] = 7
    assert distribution(cond, uncond, [config], "0626", eos=2)[0, 0].tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["cond", "uncond"])
def test_logits_that_are_not_finite_spoil_their_row_alone(release, value, where):
    cond, uncond = random_logits(3)
    uniforms = np.random.default_rng(1).random((3, CHANNELS))
    configs = [GenerationConfig()] * 3
    before = draw(cond, uncond, uniforms, configs, release)
    {"cond": cond, "uncond": uncond}[where][1, 4, 17] = value
    after = draw(cond, uncond, uniforms, configs, release)
    assert (after[1] == NOT_FINITE).all()
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("release", RELEASES)
def test_the_logits_are_left_alone(release):
    cond, uncond = random_logits(2)
    before = cond.copy(), uncond.copy()
    for cfg_scale in (0, 3):
        config = GenerationConfig(cfg_filter_top_k=1, cfg_scale=cfg_scale)
        draw(cond, uncond, np.zeros((2, CHANNELS)), [config] * 2, release)
    np.testing.assert_array_equal(cond, before[0])
    np.testing.assert_array_equal(uncond, before[1])


@pytest.mark.parametrize("release", RELEASES)
def test_without_guidance_the_unconditional_logits_do_not_matter(release):
    """Not even those that are not finite, and in the company of rows with guidance."""
    cond, uncond = random_logits(2)
    configs = [GenerationConfig(cfg_scale=0), GenerationConfig()]
    found = distribution(cond, uncond, configs, release)
    np.testing.assert_array_equal(found[0], distribution(cond, cond, configs, release)[0])
    uncond[0] = np.nan
    np.testing.assert_array_equal(found, distribution(cond, uncond, configs, release))


@pytest.mark.parametrize("release", RELEASES)
def test_the_draw_inverts_the_cumulative_distribution(release):
    grid = np.concatenate([np.linspace(0, 1, 400, endpoint=False), [1 - 2.0**-53]])
    cond, uncond = random_logits(1, channels=1)
    cond, uncond = (np.repeat(logits, len(grid), axis=0) for logits in (cond, uncond))
    configs = [GenerationConfig(top_p=0.8)] * len(grid)
    tokens, weights = distribution_of_candidates(cond, uncond, configs, release)
    ranks = np.searchsorted(np.cumsum(weights[0, 0]), grid, side="right")
    assert weights[0, 0, ranks].all()
    drawn = draw(cond, uncond, grid[:, None], configs, release)
    np.testing.assert_array_equal(drawn[:, 0], tokens[0, 0, ranks])
    assert np.unique(drawn).size > 5


@pytest.mark.parametrize("release", RELEASES)
def test_a_uniform_on_a_boundary_takes_the_next_token(release):
    cond = np.tile(np.float32([0, 0, 0, 0, -99]), (4, 1, 1))
    configs = [GenerationConfig(top_p=1, temperature=1)] * 4
    drawn = draw(cond, cond, np.array([[0], [0.25], [0.5], [0.75]]), configs, release, eos=4)
    assert drawn[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("release", RELEASES)
def test_draws_over_many_seeds_follow_the_reference(release):
    """Chi-square at the level 0.001, over the first draw of 20,000 seeds."""
    stats = pytest.importorskip("scipy.stats")
    seeds, vocab, eos = 20_000, 24, 20
    rng = np.random.default_rng(11)
    cond, uncond = rng.standard_normal((2, 1, 2, vocab)).astype(np.float32)
    config = GenerationConfig(cfg_scale=1, cfg_filter_top_k=15)
    uniforms = np.stack([np.random.default_rng(seed).random(2) for seed in range(seeds)])
    tokens = draw(
        np.repeat(cond, seeds, axis=0),
        np.repeat(uncond, seeds, axis=0),
        uniforms,
        [config] * seeds,
        release,
        eos,
    )
    expected = reference(cond[0], uncond[0], config, release, eos)
    for channel in range(2):
        counts = np.bincount(tokens[:, channel], minlength=vocab)
        possible = expected[channel] > 0
        assert possible.sum() > 5
        assert not counts[~possible].any()
        result = stats.chisquare(counts[possible], seeds * expected[channel, possible])
        assert result.pvalue > 1e-3


@pytest.mark.parametrize("release", RELEASES)
def test_a_row_alone_is_the_row_in_company(release):
    cond, uncond = random_logits(len(CONFIGS), seed=3)
    cond, uncond = np.round(cond), np.round(uncond)  # many ties
    uniforms = np.random.default_rng(0).random((len(CONFIGS), CHANNELS))
    together = distribution(cond, uncond, CONFIGS, release)
    drawn = draw(cond, uncond, uniforms, CONFIGS, release)
    for row, config in enumerate(CONFIGS):
        one = slice(row, row + 1)
        alone = distribution(cond[one], uncond[one], [config], release)
        np.testing.assert_array_equal(alone[0], together[row])
        tokens = draw(cond[one], uncond[one], uniforms[one], [config], release)
        np.testing.assert_array_equal(tokens[0], drawn[row])


@st.composite
def cases(draw_):
    rows, channels = draw_(st.integers(1, 4)), draw_(st.integers(1, 4))
    eos = draw_(st.integers(1, 40))
    vocab = eos + draw_(st.integers(1, 5))
    rng = np.random.default_rng(draw_(st.integers(0, 2**32)))
    scale = 10.0 ** draw_(st.integers(-40, 35))
    kind = draw_(st.sampled_from(["normal", "ties", "zeros", "specials"]))
    cond, uncond = rng.standard_normal((2, rows, channels, vocab))
    if kind == "ties":
        cond, uncond = np.round(cond), np.round(uncond)
    elif kind == "zeros":
        cond, uncond = cond * 0, uncond * 0
    elif kind == "specials":
        cond[..., eos:] += 5
    config = st.builds(
        GenerationConfig,
        cfg_scale=st.sampled_from([0.0, 1.0, 3.0, 50.0]),
        temperature=st.one_of(st.just(0.0), st.floats(0, 100)),
        top_p=st.floats(0, 1),
        cfg_filter_top_k=st.integers(1, 60),
    )
    configs = draw_(st.lists(config, min_size=rows, max_size=rows))
    uniforms = rng.random((rows, channels))
    with np.errstate(under="ignore"):
        cond, uncond = (scale * cond).astype(np.float32), (scale * uncond).astype(np.float32)
    return cond, uncond, uniforms, configs, eos


@settings(deadline=None)
@given(cases(), st.sampled_from(RELEASES))
def test_tokens_are_legal_and_rows_independent(case, release):
    cond, uncond, uniforms, configs, eos = case
    with np.errstate(all="raise", under="ignore"):
        tokens = draw(cond, uncond, uniforms, configs, release, eos)
        weights = distribution(cond, uncond, configs, release, eos)
    assert tokens.shape == cond.shape[:2]
    assert tokens.dtype == np.int64
    assert tokens.min() >= 0
    assert tokens[:, 0].max() <= eos
    assert tokens[:, 1:].max(initial=0) < eos
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
    assert np.take_along_axis(weights, tokens[..., None], axis=-1).all()
    for row in range(len(cond)):
        one = slice(row, row + 1)
        alone = draw(cond[one], uncond[one], uniforms[one], configs[one], release, eos)
        np.testing.assert_array_equal(alone[0], tokens[row])
        np.testing.assert_array_equal(
            distribution(cond[one], uncond[one], configs[one], release, eos)[0], weights[row]
        )
