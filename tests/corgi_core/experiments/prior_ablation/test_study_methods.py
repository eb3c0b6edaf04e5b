"""Other networks, losses and guidance than the prior's: each against what is known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from corgi_core.config import preset_named
from corgi_core.errors import CorgiError
from corgi_core.experiments.prior_ablation.arms import BASELINE, Arm, shifted_text
from corgi_core.experiments.prior_ablation.autoguidance import autoguided, saved_averages
from corgi_core.experiments.prior_ablation.flow_matching import FlowPrior, solve_euler, solve_heun
from corgi_core.experiments.prior_ablation.measure import Study, measure_arm, train_arm
from corgi_core.experiments.prior_ablation.methods import DIFFUSION, FLOW, MLP
from corgi_core.experiments.prior_ablation.mlp_denoiser import MLPDenoiser
from corgi_core.experiments.prior_ablation.report import final_scores, metrics_by_step
from corgi_core.experiments.prior_ablation.sweeps import (
    Plan,
    Sampling,
    early_steps,
    plans_of,
    sweeps_of,
)
from corgi_core.experiments.prior_ablation.tables import tables_of
from corgi_core.experiments.report import StudyReport
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.prior.network import KVCache, PriorNetwork, PriorShape
from corgi_core.training.checkpoint import Checkpoint, save_checkpoint, step_of
from tests.helpers.small_study import PRESET, small_study

SHAPE = PriorShape(
    embedding_width=12, text_width=6, text_tokens=5, gaussians=1, width=16, layers=1, heads=2
)
SWEEPS = ("network", "flow", "autoguidance")
STUDIED = replace(
    PRESET,
    study=replace(
        PRESET.study,
        training=replace(PRESET.study.training, steps=48, checkpoint_every=24, evaluate_every=48),
        sweeps=SWEEPS,
    ),
)
TEXT = shifted_text(1.0)
Solver = Callable[[Callable[[torch.Tensor, float], torch.Tensor], torch.Tensor, int], torch.Tensor]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Its arms are trained once, by whichever test is the first to need them."""
    return small_study(tmp_path_factory.mktemp("study"), STUDIED)


def captions(n: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, of which the last two are padding, and text embeddings."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randn(n, 5, 6, generator=random)
    attn_mask = torch.tensor([True, True, True, False, False]).expand(n, -1)
    return tokens, attn_mask, torch.randn(n, 12, generator=random)


@pytest.mark.parametrize("name", ["emoji", "embeddings", "paper"])
def test_the_mlp_has_the_transformers_number_of_parameters(name: str) -> None:
    prior = preset_named(name).prior
    shape = PriorShape(512, 384, 32, 1, prior.width, prior.layers, prior.heads)
    with torch.device("meta"):
        mlp, transformer = (
            sum(p.numel() for p in network(shape).parameters())
            for network in (MLPDenoiser, PriorNetwork)
        )
    assert mlp == pytest.approx(transformer, rel=0.01)


def test_the_mlp_reads_neither_padding_nor_a_dropped_caption() -> None:
    torch.manual_seed(0)
    network = MLPDenoiser(SHAPE)
    for parameter in network.parameters():  # modulations begin at 0
        torch.nn.init.normal_(parameter, std=0.3)
    tokens, attn_mask, text = captions()
    others = tokens + 1, attn_mask, text - 1
    cond, c = torch.tensor([True, False, False]), torch.zeros(3, dtype=torch.long)
    noisy = torch.randn(3, 2, 12), torch.tensor([[0, 999]] * 3)
    one, other = (network(*each, cond, *noisy, c) for each in ((tokens, attn_mask, text), others))
    assert torch.equal(one[1:], other[1:])
    assert not torch.allclose(one[0], other[0], atol=0.1)
    padded = torch.where(attn_mask.unsqueeze(-1), tokens, 7.0)
    assert torch.equal(network(padded, attn_mask, text, cond, *noisy, c), one)


@pytest.mark.parametrize("solve", [solve_euler, solve_heun])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_a_solver_asks_as_often_as_it_says_and_never_at_the_end(solve: Solver, steps: int) -> None:
    asked = []

    def velocity(z: torch.Tensor, s: float) -> torch.Tensor:  # of a straight path
        asked.append(s)
        return torch.full_like(z, 2.0)

    z_0 = solve(velocity, torch.ones(1, 1), steps)
    assert float(z_0) == pytest.approx(-1.0)
    assert len(asked) == steps
    assert asked[0] == 1
    assert min(asked) > 0


def test_heuns_method_is_of_second_order() -> None:
    """dz/ds = z from s = 1 to 0 takes 1 to 1/e; its last step is Euler's, so use many."""
    errors = {
        solve: abs(float(solve(lambda z, s: z, torch.ones(1, 1), 41)) - 0.36787944)
        for solve in (solve_euler, solve_heun)
    }
    assert errors[solve_heun] < errors[solve_euler] / 10


def test_a_flow_that_learned_nothing_else_samples_its_gaussian(study: Study) -> None:
    """Its residual is 0: the velocity is the Gaussian's own, whose flow is the identity."""
    prior, _ = train_arm(study, Arm(TEXT, method=FLOW))
    torch.nn.init.zeros_(prior.network.head.weight)
    torch.nn.init.zeros_(prior.network.head.bias)
    prefix = study.held_out.batch(torch.arange(3))[:3]
    start, noise = prior.bank.start(*prefix), torch.randn(3, 200, 12)
    for guidance, gaussians in ((1.0, start.cond), (0.0, start.uncond)):
        z_0 = prior.from_noise(noise, prefix, start, "heun", guidance, None)
        assert torch.allclose(z_0, gaussians.unwhiten(noise[:, 0]), atol=1e-2)
    with pytest.raises(CorgiError, match="no sampler 'ddpm' of a flow"):
        prior.sample(*prefix, sampler="ddpm")


def test_a_flow_that_knows_the_image_is_there_in_any_number_of_steps() -> None:
    bank = GaussianBank(torch.ones(1, 12), torch.full((1, 12), 2.0), torch.ones(1), [12], 1.0)
    prefix, image = captions(), torch.randn(3, 12)

    class Knowing(PriorNetwork):
        def denoise(self, kv_cache: KVCache, shrunk: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return image.unsqueeze(1)

    prior = FlowPrior(Knowing(SHAPE), bank, PRESET.prior, {}, card={})
    start = bank.start(*prefix)
    for sampler, steps in (("euler", 1), ("euler", 4), ("heun", 4)):
        z_0 = prior.from_noise(torch.randn(3, steps, 12), prefix, start, sampler, 1.0, None)
        assert torch.allclose(z_0, image, atol=1e-5)


def test_an_early_average_stays_even_if_it_was_noticed_late(tmp_path: Path) -> None:
    keep = saved_averages((2, 4))
    for step in (2, 4, 6, 8):
        weights = {"weight": torch.full((1,), float(step))}
        save_checkpoint(tmp_path, Checkpoint(step, {"ema": weights, "model": weights}, {}))
        if step != 2:  # killed before it was kept
            keep(tmp_path)
    files = sorted((tmp_path / "averages").iterdir())
    assert [float(load_file(file)["weight"]) for file in files] == [2.0, 4.0]


def test_autoguidance_extrapolates_from_the_earlier_self(study: Study) -> None:
    early = early_steps(STUDIED)
    arm = Arm(TEXT, snapshots=early)
    prior, _ = train_arm(study, arm)
    assert {step_of(path.with_suffix("")) for path in study.run_folder(arm).glob("averages/*")} == {
        *early
    }
    guided = autoguided(prior, study.run_folder(arm), early[0])
    prefix = study.held_out.batch(torch.arange(3))[:3]
    start, u = prior.bank.start(*prefix), torch.randn(3, 12)
    assert torch.equal(guided.sample(*prefix, guidance=1), prior.sample(*prefix, guidance=1))
    strong = prior.denoiser(prefix, start, [999], 1)(u, 999)
    weak = guided.denoiser(prefix, start, [999], 0)(u, 999)
    assert not torch.allclose(weak, strong)
    twice = guided.denoiser(prefix, start, [999], 2)(u, 999)
    assert torch.allclose(twice, 2 * strong - weak, atol=1e-5)


def test_every_method_learns_what_captions_say_and_is_a_row_of_the_tables(study: Study) -> None:
    plans = plans_of(sweeps_of(STUDIED), 0, 3)
    assert {plan.arm.method for plan in plans} == {DIFFUSION, MLP, FLOW}
    rows: dict[str, list[dict[str, object]]] = {"references": [], "samples": []}
    for plan in plans:
        found = measure_arm(study, plan)["samples"]
        assert len(found) == len(plan.samplings)
        for row in found:
            assert row["cosine"] > row["shuffled_cosine"], row
        rows["samples"] += [row | {"seed": seed} for row in found for seed in (0, 1)]
    rows["references"] = [{"label": "other images", "cosine": 0.0, "seed": 0}]
    tables = tables_of(StudyReport(rows, {}), STUDIED)
    assert {"methods", *SWEEPS} <= tables.keys()
    assert all("±" in line for line in tables["methods"].splitlines()[2:])
    assert f"step {early_steps(STUDIED)[0]}" in tables["autoguidance"]


def test_a_method_is_part_of_an_arms_name() -> None:
    arm = Arm(BASELINE, method=MLP)
    assert (arm.name, arm.label) == ("baseline-mlp-seed0", "baseline, N(0, I), MLP")
    assert Arm(TEXT, snapshots=(50, 100)).name == "shifted-text-kappa1-snapshots50-100-seed0"
    one, other = (Plan(a, (Sampling(1),), (), timesteps=False) for a in (arm, Arm(BASELINE)))
    assert one.arm.about["method"] != other.arm.about["method"]


def test_a_run_shows_a_flow_by_its_own_sampler_and_what_guides_apart() -> None:
    ways = [Sampling(4, "euler"), Sampling(4, "euler", 2.0), Sampling(4, "euler", 2.0, weak=50)]
    rows = {
        "samples": [asdict(way) | {"cosine": value} for value, way in enumerate(ways)],
        "training": [],
    }
    assert final_scores(rows) == {"cosine": 0}
    names = [name for entry in metrics_by_step(rows) for name in entry if name != "step"]
    assert len(set(names)) == len(ways)
