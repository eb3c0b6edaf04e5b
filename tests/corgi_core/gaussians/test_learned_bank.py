"""A learned bank: equation (5) against its definition, and what learning it brings."""

import numpy as np
import pytest
import torch
from upath import UPath

from corgi_core.config import GaussianSettings, PriorSettings, TrainingSettings
from corgi_core.data.arrays import compute_missing
from corgi_core.data.dataset import write_dataset
from corgi_core.data.keys import ListedKeys, SplitKeys
from corgi_core.data.ragged import RaggedArray
from corgi_core.data.shards import Sample
from corgi_core.encoders.similarity import mean_encoder_cosine, scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.fit import fit_bank
from corgi_core.gaussians.learned import MAX_SCALING, BankTask, LearnedBank, mean_overlap
from corgi_core.prior.task import PriorTask
from corgi_core.training.loop import train
from corgi_core.training.randomness import StepRandom
from tests.helpers.losses import loss_of

D, BLOCKS = 12, (4, 8)
LEARNING = TrainingSettings(
    steps=80, batch_size=64, learning_rate=2e-2, warmup_steps=5, weight_decay=0.0, ema_decay=0.9,
    precision="fp32",
)  # fmt: skip


def bank_of(k, seed=0, choice="means"):
    random = torch.Generator().manual_seed(seed)
    return GaussianBank(
        torch.randn(k, D, generator=random), 0.1 + torch.rand(k, D, generator=random),
        torch.ones(k), BLOCKS, kappa=1.0, choice=choice, choice_samples=8,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Images of four kinds; a caption, where there is one, points to its image's kind."""
    folder = UPath(tmp_path_factory.mktemp("stores"))
    random = torch.Generator().manual_seed(0)
    keys = [f"{number:04d}" for number in range(400)]
    kinds = torch.randint(4, (400,), generator=random)
    centres = 2 * torch.randn(4, D, generator=random)
    image = scale_per_encoder(centres[kinds] + torch.randn(400, D, generator=random), BLOCKS)
    text = scale_per_encoder(
        centres[kinds] + 0.3 * torch.randn(400, D, generator=random) + 0.5, BLOCKS
    )
    captions = [None if n % 10 == 0 else [f"a picture of kind {kinds[n]}"] for n in range(400)]
    splits = ["validation" if n % 4 == 0 else "train" for n in range(400)]
    dataset = write_dataset(
        folder / "set",
        [
            Sample(key, b"no picture", caption, split, "test", key, "png")
            for key, caption, split in zip(keys, captions, splits, strict=True)
        ],
        shard_size=100,
    )
    number = {key: n for n, key in enumerate(keys)}

    def images(shard):
        here = dataset.rows(shard)["key"].tolist()
        rows = [number[key] for key in here]
        return {"keys": np.array(here), "image": image[rows].numpy().astype(np.float16)}

    def texts(shard):
        here = [key for key in dataset.rows(shard)["key"] if captions[number[key]]]
        rows = [number[key] for key in here]
        return {
            "keys": np.array(here),
            "text": text[rows].numpy().astype(np.float16),
            "tokens": RaggedArray.of_lengths(
                np.zeros((2 * len(rows), 3), np.float16), np.full(len(rows), 2)
            ),
        }

    spec = {"encoder": "e", "width": D, "encoder_dims": BLOCKS, "text_width": 3, "text_tokens": 2}
    return (
        dataset,
        compute_missing(folder / "images", dataset, spec, images, "images"),
        compute_missing(folder / "texts", dataset, spec, texts, "texts"),
    )


def task_of(stores, k=4, **changed):
    dataset, images, texts = stores
    train_keys, validation_keys = (SplitKeys(dataset, split) for split in ("train", "validation"))
    points = images.read("image")[images.rows_of(dataset.keys("train"))]
    settings = GaussianSettings(learning=LEARNING, **changed)
    fitted, _ = fit_bank(points, k, BLOCKS, settings)
    return BankTask(settings, images, texts, train_keys, validation_keys, fitted)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_the_overlap_is_the_mean_over_all_pairs(k):
    means = bank_of(k).means
    pairs = [
        mean_encoder_cosine(means[i], means[j], BLOCKS)
        for i in range(k)
        for j in range(k)
        if i != j
    ]
    naive = torch.stack(pairs).mean() if pairs else torch.tensor(0.0)
    torch.testing.assert_close(mean_overlap(means, BLOCKS), naive, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("choice", ["means", "expectation"])
def test_the_loss_is_equation_5(stores, choice):
    """Against noise, Gaussians and cosines written out one by one."""
    task = task_of(stores, xi=0.7, choice=choice, choice_samples=16)
    rows, random = torch.arange(30), StepRandom(3, 5, 30)
    noise = StepRandom(3, 5, 30).normal(D)
    total = 0.0
    images, texts, bank = task.images, task.texts, task.fitted
    training = np.flatnonzero(np.isin(texts.keys, stores[0].keys("train")))
    for i, row in enumerate(training[:30]):
        text = torch.from_numpy(texts.read("text")[row]).float()
        (image_row,) = images.rows_of([texts.keys[row]])
        z_0 = torch.from_numpy(images.read("image")[image_row]).float()
        c = int(bank.assign(text[None]))
        last = bank.means[c] + bank.std[c] * noise[i]
        total += float(mean_encoder_cosine(z_0, last, BLOCKS)) / 30
    pairs = [(i, j) for i in range(bank.k) for j in range(bank.k) if i != j]
    apart = sum(float(mean_encoder_cosine(bank.means[i], bank.means[j], BLOCKS)) for i, j in pairs)
    losses = loss_of(task, task.build(), rows, random)
    assert losses["cosine"].item() == pytest.approx(total, abs=1e-5)
    assert losses["loss"].item() == pytest.approx(-total + 0.7 * apart / len(pairs), abs=1e-5)


def test_the_gradient_reaches_means_and_deviations(stores):
    task = task_of(stores, xi=0.0)
    model = task.build()
    loss_of(task, model, torch.arange(64), StepRandom(0, 0, 64))["loss"].backward()
    text = task.batch(torch.arange(64), StepRandom(0, 0, 64))[1].float()
    chosen = task.fitted.assign(text).unique()
    for gradient in (model.means.grad, model.log_scales.grad):
        reached = gradient.abs().sum(dim=1) > 0
        assert reached.nonzero()[:, 0].tolist() == chosen.tolist()
    task = task_of(stores, xi=1.0)
    model = task.build()
    loss = loss_of(task, model, torch.arange(64), StepRandom(0, 0, 64))["overlap"]
    loss.backward()
    assert bool((model.means.grad.abs().sum(dim=1) > 0).all())  # ξ reaches every mean
    assert model.log_scales.grad is None


def test_learning_raises_the_held_out_cosine(stores, tmp_path):
    task = task_of(stores, k=3, xi=0.1)
    with torch.no_grad():
        before = task.evaluate(task.build())
    assert before["held_out_cosine"] == before["held_out_cosine_fitted"]
    result = train(task, LEARNING, tmp_path / "run")
    assert result.metrics["held_out_cosine_fitted"] == before["held_out_cosine_fitted"]
    assert result.metrics["held_out_cosine"] > before["held_out_cosine"] + 0.02
    bank = result.model.to_bank()
    assert bank.config == task.fitted.config
    assert torch.equal(bank.sizes, task.fitted.sizes)
    # By hand, with other noise than `evaluate` has, on the banks as they are saved.
    bank.save(tmp_path / "bank")
    z_0, text = (pairs.float() for pairs in task._held_out)

    def cosine(bank):
        noise = torch.randn(200, *z_0.shape, generator=torch.Generator().manual_seed(9))
        return mean_encoder_cosine(
            z_0, bank.gaussians(bank.assign(text)).unwhiten(noise), BLOCKS
        ).mean()

    assert cosine(GaussianBank.load(tmp_path / "bank")) > cosine(task.fitted) + 0.02


def test_deviations_stay_positive_whatever_the_learning_rate(stores, tmp_path):
    task = task_of(stores)
    wild = TrainingSettings(
        steps=20, batch_size=64, learning_rate=1e3, warmup_steps=0, weight_decay=0.0,
        clip_norm=1e9, precision="fp32",
    )  # fmt: skip
    result = train(task, wild, tmp_path / "run")
    assert result.skipped == 0
    ratio = result.model.to_bank().std / task.fitted.std
    assert bool((ratio >= 0.999 / MAX_SCALING).all())
    assert bool((ratio <= 1.001 * MAX_SCALING).all())
    assert float(ratio.min()) < 0.2  # the rate was huge


def test_the_priors_loss_does_not_reach_the_bank(stores):
    """A bank taken from a learned one's parameters is data to the prior."""
    dataset, images, texts = stores
    learned = LearnedBank(task_of(stores).fitted)
    bank = learned.to_bank()
    captioned = SplitKeys(dataset, "train")
    settings = PriorSettings(
        width=16, layers=1, heads=2, noise_samples=2, cond_dropout=0.1, p2_gamma=1.0, guidance=1.0,
        num_steps=2, training=LEARNING,
    )  # fmt: skip
    prior = PriorTask(settings, images, texts, captioned, (), bank)
    network = prior.build()
    loss_of(prior, network, torch.arange(16), StepRandom(0, 0, 16))["loss"].backward()
    assert any(p.grad is not None for p in network.parameters())
    assert not any(tensor.requires_grad for tensor in bank.state_dict(keep_vars=True).values())
    assert learned.means.grad is learned.log_scales.grad is None
    straight = GaussianBank(learned.means, learned.std, learned.sizes, BLOCKS, 1.0)
    assert not straight.means.requires_grad
    assert not straight.std.requires_grad


def test_without_captions_there_is_nothing_to_learn(stores):
    task = task_of(stores)
    task.train_keys = ListedKeys(("0000", "0010"))  # image-only
    with pytest.raises(CorgiError, match="no training image has a caption"):
        _ = task.rows


def test_the_identity_knows_the_fitted_bank(stores):
    from corgi_core.training.identity import identity_of

    one, other = task_of(stores), task_of(stores, kappa=2.0)
    assert identity_of(one, LEARNING)["task.fitted"] == one.fitted.digest
    assert identity_of(one, LEARNING) != identity_of(other, LEARNING)
