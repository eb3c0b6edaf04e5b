"""The prior network: its cached prefix, its noise samples, and guidance."""

import dataclasses

import pytest
import torch
from upath import UPath

from corgi_core.config import PriorSettings, TrainingSettings
from corgi_core.diffusion.samplers import noise_for
from corgi_core.diffusion.schedule import Schedule
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.prior.cached_denoiser import CachedDenoiser
from corgi_core.prior.compiled_step import CompiledStep
from corgi_core.prior.model import PriorModel
from corgi_core.prior.network import PriorNetwork, PriorShape

pytestmark = pytest.mark.integration  # trains, or starts processes, for seconds

D, T, W = 8, 6, 10
SETTINGS = PriorSettings(
    width=32, layers=2, heads=4, noise_samples=3, cond_dropout=0.1, p2_gamma=1.0, guidance=1.0,
    num_steps=4, training=TrainingSettings(steps=1, batch_size=1, learning_rate=1e-3),
)  # fmt: skip
ENCODERS = {"encoder": "abc", "encoder_dims": [D], "names": ["tiny"], "width": D}


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = PriorNetwork(PriorShape(D, W, T, gaussians=2, width=32, layers=2, heads=4))
    for start in (network.positions, network.null_text):
        torch.nn.init.normal_(start)  # they start at zero, which proves nothing
    return network.eval()


@pytest.fixture
def captions():
    random = torch.Generator().manual_seed(1)
    tokens = torch.randn(5, T, W, generator=random)
    mask = torch.arange(T) < torch.tensor([6, 1, 3, 4, 2]).unsqueeze(1)
    return tokens, mask, torch.randn(5, D, generator=random)


@pytest.fixture
def bank():
    random = torch.Generator().manual_seed(2)
    return GaussianBank(
        torch.randn(2, D, generator=random), 0.5 + torch.rand(2, D, generator=random),
        torch.full((2,), 9), encoder_dims=(D,), kappa=1.0,
    )  # fmt: skip


def conditional(n):
    return torch.ones(n, dtype=torch.bool)


def uncached(network, tokens, mask, text, shrunk, t, c):
    """ẑ_0 by one pass over the whole sequence, without a cache of keys and values."""
    from corgi_core.diffusion.schedule import timestep_features

    n, length = mask.shape
    prefix = torch.cat(
        [
            network.text_tokens(tokens), network.text_embedding(text)[:, None],
            network.gaussian(c)[:, None],
        ], dim=1,
    )  # fmt: skip
    positions = torch.cat([network.positions[:length], network.positions[-2:]])
    noisy = network.noisy(shrunk) + network.timestep(timestep_features(t, 32))
    x = torch.cat([prefix + positions, noisy[:, None]], dim=1)
    total = length + 3
    unpadded = torch.cat([mask, torch.ones(n, 3, dtype=torch.bool)], dim=1)
    attn_mask = torch.ones(total, total, dtype=torch.bool).tril() & unpadded[:, None, :]
    attn_mask = attn_mask | torch.eye(total, dtype=torch.bool)
    for block in network.blocks:
        queries, (keys, values) = block.queries_keys_values(x)
        found = torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=attn_mask.unsqueeze(1)
        )
        x = block(x, found)
    return network.head(network.norm(x[:, -1]))


def test_prefix_and_suffix_are_one_causal_transformer(network, captions):
    tokens, mask, text = captions
    shrunk, t, c = (
        torch.randn(5, D),
        torch.tensor([0, 10, 500, 900, 999]),
        torch.tensor([0, 1, 0, 1, 1]),
    )
    ours = network(tokens, mask, text, conditional(5), shrunk[:, None], t[:, None], c)[:, 0]
    torch.testing.assert_close(
        ours, uncached(network, tokens, mask, text, shrunk, t, c), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_cached_denoiser_is_the_uncached_network(network, captions, guidance):
    tokens, mask, text = captions
    c = torch.tensor([0, 1, 0, 1, 1])
    timesteps = [999, 600, 599, 20, 0]
    kv_cache = network.encode_prefix(tokens, mask, text, conditional(5), c)
    denoise = CachedDenoiser(network, kv_cache, c, timesteps, guidance)
    for t in timesteps:
        shrunk, times = torch.randn(5, D), torch.full((5,), t)
        with torch.no_grad():
            expected = uncached(network, tokens, mask, text, shrunk, times, c)
            if guidance != 1:
                uncond = network(
                    tokens, mask, text, ~conditional(5), shrunk[:, None], times[:, None], c
                )[:, 0]
                expected = uncond + guidance * (expected - uncond)
        torch.testing.assert_close(denoise(shrunk, t), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("width", [8, 9])  # of the embeddings: a multiple of four, and not
@pytest.mark.parametrize("count", [1, 3, 5])  # captions: two rows, a tile of four, and more
def test_the_compiled_step_is_the_eager_one(captions, guidance, width, count):
    torch.manual_seed(4)
    network = PriorNetwork(PriorShape(width, W, T, gaussians=2, width=32, layers=2, heads=4)).eval()
    tokens, mask, _ = (rows[:count] for rows in captions)
    text, c = torch.randn(count, width), torch.tensor([1, 0, 1, 1, 0])[:count]
    timesteps = [999, 500, 0]
    with torch.no_grad():
        kv_cache = network.encode_prefix(tokens, mask, text, conditional(count), c)
    threads = torch.get_num_threads()
    eager = CachedDenoiser(network, kv_cache, c, timesteps, guidance)
    compiled = CachedDenoiser(network, kv_cache, c, timesteps, guidance, compiled=True)
    assert isinstance(compiled._step, CompiledStep)
    assert torch.get_num_threads() == threads  # although numba has started its own
    for t in timesteps:
        shrunk = torch.randn(count, width)
        torch.testing.assert_close(compiled(shrunk, t), eager(shrunk, t), rtol=1e-5, atol=1e-5)


def test_a_compiled_prior_gives_the_same_samples(network, captions, bank):
    prior = PriorModel(network, bank, SETTINGS, ENCODERS, {})
    one = [rows[:1] for rows in captions]
    eager = prior.sample(*one, seed=1), prior.sample(*captions, guidance=2.0)
    prior.compile()
    torch.testing.assert_close(prior.sample(*one, seed=1), eager[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        prior.sample(*captions, guidance=2.0), eager[1], rtol=1e-5, atol=1e-5
    )
    many = [rows.repeat(7, *[1] * (rows.ndim - 1)) for rows in captions]  # 35: not compiled
    not_compiled = PriorModel(network, bank, SETTINGS, ENCODERS, {}).sample(*many, guidance=2.0)
    assert torch.equal(prior.sample(*many, guidance=2.0), not_compiled)
    with torch.autocast("cpu", torch.bfloat16):  # neither is bfloat16
        rough = prior.sample(*one, seed=1)
    torch.testing.assert_close(rough, eager[0], rtol=0.1, atol=0.1)


def test_a_compiled_prior_encodes_the_unconditional_prefix_once_a_gaussian(
    network, captions, bank, monkeypatch
):
    prior = PriorModel(network, bank, SETTINGS, ENCODERS, {})
    eager = [prior.sample(*[rows[i : i + 1] for rows in captions], guidance=2.0) for i in (0, 1)]
    encoded, encode = [], network.encode_prefix

    def counting(*arguments, **named):
        encoded.append(arguments or named)
        return encode(*arguments, **named)

    monkeypatch.setattr(network, "encode_prefix", counting)
    prior.compile()
    for _ in range(2):
        for i in (0, 1):
            found = prior.sample(*[rows[i : i + 1] for rows in captions], guidance=2.0)
            torch.testing.assert_close(found, eager[i], rtol=1e-5, atol=1e-5)
    gaussians = bank.assign(captions[2][:2]).unique()
    assert len(encoded) == 4 + len(gaussians)


def test_checkpointed_activations_change_no_gradient_and_are_not_saved(network, captions):
    tokens, mask, text = captions
    shrunk, t, c = (
        torch.randn(5, 3, D),
        torch.randint(1000, (5, 3)),
        torch.ones(5, dtype=torch.long),
    )

    def gradient_and_bytes():
        network.zero_grad()
        saved = 0

        def save(tensor):
            nonlocal saved
            saved += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            loss = network(tokens, mask, text, conditional(5), shrunk, t, c).square().mean()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in network.parameters()]), saved

    plain, saved = gradient_and_bytes()
    network.checkpoint_activations = True
    again, saved_checkpointed = gradient_and_bytes()
    torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-7)
    assert saved_checkpointed < saved / 2


def test_noise_samples_of_one_prefix_do_not_attend_to_each_other(network, captions):
    tokens, mask, text = captions
    shrunk, t = torch.randn(5, 3, D), torch.randint(1000, (5, 3))
    c = torch.zeros(5, dtype=torch.long)
    together = network(tokens, mask, text, conditional(5), shrunk, t, c)
    for m in range(3):
        alone = network(
            tokens, mask, text, conditional(5), shrunk[:, m : m + 1], t[:, m : m + 1], c
        )
        torch.testing.assert_close(together[:, m : m + 1], alone, rtol=1e-5, atol=1e-5)


def test_gradient_of_several_noise_samples_is_the_mean_of_separate_passes(network, captions):
    tokens, mask, text = captions
    shrunk, t = torch.randn(5, 3, D), torch.randint(1000, (5, 3))
    c, target = torch.ones(5, dtype=torch.long), torch.randn(5, 1, D)

    def gradient(columns):
        network.zero_grad()
        out = network(tokens, mask, text, conditional(5), shrunk[:, columns], t[:, columns], c)
        (out - target).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    together = gradient([0, 1, 2])
    separate = sum(gradient([m]) for m in range(3)) / 3
    torch.testing.assert_close(together, separate, rtol=1e-4, atol=1e-5)


def test_padding_and_dropped_captions_are_invisible(network, captions):
    tokens, mask, text = captions
    shrunk, t, c = torch.randn(5, 1, D), torch.full((5, 1), 300), torch.zeros(5, dtype=torch.long)
    scribbled = torch.where(mask.unsqueeze(2), tokens, torch.tensor(1e3))
    same = network(tokens, mask, text, conditional(5), shrunk, t, c)
    torch.testing.assert_close(network(scribbled, mask, text, conditional(5), shrunk, t, c), same)
    cut = network(
        tokens[1:2, :1], mask[1:2, :1], text[1:2], conditional(1), shrunk[1:2], t[1:2], c[1:2]
    )
    torch.testing.assert_close(cut, same[1:2], rtol=1e-5, atol=1e-5)

    uncond = network(tokens, mask, text, ~conditional(5), shrunk, t, c)
    other = network(tokens.flip(0), mask.flip(0), text.flip(0), ~conditional(5), shrunk, t, c)
    torch.testing.assert_close(uncond, other)
    assert not torch.allclose(uncond, same)


def test_the_network_reads_the_embedding_shrunk_toward_its_gaussian(network, captions, bank):
    read = []
    network.noisy.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    PriorModel(network, bank, SETTINGS, ENCODERS, {}).sample(*captions, num_steps=2, seed=7)
    c = bank.assign(captions[2])
    mean, noise = bank.means[c], noise_for(7, range(len(c)), (2, D))[:, 0]
    z_t = mean + bank.std[c] * noise
    shrunk = mean + Schedule.linear().alphas_cumprod[999].sqrt().float() * (z_t - mean)
    torch.testing.assert_close(read[0], shrunk)
    # So the embedding itself tells the Gaussian, to the unconditional branch too.
    assert torch.equal(torch.cdist(read[0], bank.means).argmin(dim=1), c)


def test_samples_do_not_depend_on_the_batch(network, captions, bank):
    prior = PriorModel(network, bank, SETTINGS, ENCODERS, {})
    tokens, mask, text = captions
    together = prior.sample(tokens, mask, text, seed=3)
    alone = prior.sample(tokens[:2], mask[:2], text[:2], seed=3)
    torch.testing.assert_close(together[:2], alone, rtol=1e-4, atol=1e-4)
    assert together.norm(dim=1).numpy() == pytest.approx(D**0.5, rel=1e-4)
    assert not torch.allclose(together, prior.sample(tokens, mask, text, seed=4), atol=1e-3)
    others = prior.sample(tokens[1:3], mask[1:3], text[1:3], seed=3, sample_ids=[1, 0])
    torch.testing.assert_close(others[0], together[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(others[1], together[2], atol=1e-3)


def test_guidance_one_is_no_guidance_and_two_extrapolates(network, captions, bank):
    prior = PriorModel(network, bank, SETTINGS, ENCODERS, {})
    tokens, mask, text = captions
    sampled = {}
    for guidance in (0.0, 1.0, 2.0):
        sampled[guidance] = []
        prior.sample(
            tokens, mask, text, num_steps=1, guidance=guidance,
            callback=lambda t, z_t, z, g=guidance: sampled[g].append(z),
        )  # fmt: skip
    without, plain, guided = (sampled[g][0] for g in (0.0, 1.0, 2.0))
    torch.testing.assert_close(guided, 2 * plain - without, rtol=1e-4, atol=1e-4)


def test_a_prior_survives_saving(network, captions, bank, tmp_path):
    prior = PriorModel(network, bank, SETTINGS, ENCODERS, {"metrics": {"cosine": 0.5}})
    prior.save(UPath(tmp_path / "prior"))
    again = PriorModel.load(UPath(tmp_path / "prior"))
    assert again.digest == prior.digest
    assert again.settings == SETTINGS
    assert again.card == prior.card
    assert torch.equal(again.sample(*captions, seed=1), prior.sample(*captions, seed=1))


def test_bad_requests_are_refused(network, captions, bank):
    tokens, mask, text = captions
    prior = PriorModel(network, bank, SETTINGS, ENCODERS, {})
    with pytest.raises(CorgiError, match="5 wide, this prior needs 8"):
        prior.sample(tokens, mask, text[:, :5])
    with pytest.raises(CorgiError, match="not finite"):
        prior.sample(tokens, mask, text, guidance=float("nan"))
    undropped = dataclasses.replace(SETTINGS, cond_dropout=0.0)
    with pytest.raises(CorgiError, match="without text dropout"):
        PriorModel(network, bank, undropped, ENCODERS, {}).sample(tokens, mask, text, guidance=2.0)


def test_priors_of_every_bank_start_from_the_same_weights():
    def fresh(gaussians):
        torch.manual_seed(0)
        network = PriorNetwork(PriorShape(D, W, T, gaussians, width=32, layers=2, heads=4))
        return network.state_dict()

    one, many = fresh(1), fresh(16)
    for name in one.keys() - {"gaussian.weight"}:
        assert torch.equal(one[name], many[name]), name
