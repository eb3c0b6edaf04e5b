"""Presets are YAML files under one schema: what they hold, and what is refused, and how."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from corgi_core.config import PRESETS, Preset, TrainingSettings, load_preset, preset_named
from corgi_core.config.loading import (
    Layer,
    assigned,
    file_layers,
    known_settings,
    preset_from_yaml,
    preset_values,
    yaml_of,
)
from corgi_core.errors import CorgiError

# Of sections of the presets: a value changes them, and so does a new setting that decides.
DIGESTS = {
    "emoji": {
        "data": "42347e5af41bfea9", "encoders": "f33948645913ea9c",
        "prior": "e954a0380f8d0a83",
        "gaussians": "a6a1d5dbddfbcd8c",
        "study": "59b8263a74ee88ce", "comparison": "093398466db84167",
        "language_free": "db9c5b15e3aa34ae",
    },
    "embeddings": {
        "data": "6b7a5575a68f2a4f", "encoders": "894c192e86ad5917",
        "prior": "1a3b178d6f6bd663", "study": "33d313152cd8837f",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", DIGESTS)
def test_a_presets_values_are_those_that_finished_workspaces_were_made_with(name: str) -> None:
    found = {section: preset_named(name).digest(section) for section in DIGESTS[name]}
    assert found == DIGESTS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_yaml_and_json(name: str) -> None:
    preset = preset_named(name)
    values = preset_values(preset)
    assert preset_from_yaml(yaml_of(values)) == preset
    assert preset_from_yaml(json.dumps(values)) == preset  # JSON is YAML


def test_the_paper_has_the_papers_sizes() -> None:
    preset = preset_named("paper")
    prior, cascade = preset.prior, preset.cascade
    assert (prior.width, prior.heads, prior.layers) == (2048, 32, 20)
    assert prior.training.batch_size == 4096
    assert [stage.size for stage in cascade.stages] == [64, 256, 1024]
    assert cascade.vectors == 8
    assert preset.variants[-1] == "shifted-k1024"
    assert set(preset.caption_subsets) == {"1.7%", "100%"}  # Corgi-Semi, Corgi
    assert [stage.crop for stage in cascade.stages] == [None, 128, 256]
    assert preset.decoder_of("stable_diffusion").image_size == 512
    assert preset.image_size == 1024  # of the stored pixels, whichever decoder is the default
    assert preset.decoder is cascade


@pytest.mark.parametrize("name", ["coco", "paper"])
def test_the_large_presets_read_openais_clip_and_t5(name: str) -> None:
    encoders = preset_named(name).encoders
    assert encoders.clip == ("ViT-B-16/openai", "ViT-B-32/openai", "RN101/openai")
    assert encoders.training is None
    assert encoders.text.startswith("google-t5/t5-")


@pytest.mark.parametrize("name", ["coco", "paper"])
def test_the_large_presets_batches_divide_among_their_gpus(name: str) -> None:
    preset = preset_named(name)
    stages = [preset.cascade.training_of(number) for number in range(len(preset.cascade.stages))]
    others = [settings.training for settings in (preset.prior, *preset.decoders)]
    for training in (*others, *stages):
        assert training.batch_size % (preset.workers * training.accumulation) == 0


def loaded(folder: Path, text: str) -> Preset:
    (folder / "my.yaml").write_text(text, encoding="utf-8")
    base, layers = file_layers(folder / "my.yaml")
    return load_preset(base or "emoji", layers).preset


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("prior: {layer: 12}", "my.yaml: prior.layer is unknown", "did you mean prior.layers?"),
        ("layers: 3", "my.yaml: layers is unknown", "did you mean prior.layers?"),
        ("decoders: {gann: {}}", "decoders.gann is unknown", "did you mean decoders.gan?"),
        ("decoders: {pca: {widht: 3}}", "decoders.pca.widht is", "did you mean decoders.pca.width"),
        ("zzzzz: 3", "my.yaml: zzzzz is unknown", "`corgi config show` lists every setting"),
        ("prior: {layers: 0}", "my.yaml: prior.layers is 0", "give a whole number of at least 1"),
        ("prior: {cond_dropout: 1.5}", "prior.cond_dropout is 1.5", "give a number from 0 to 1"),
        ("prior: {training: {ema_decay: 1}}", "ema_decay is 1", "from 0 to less than 1"),
        ("gaussians: {kappa: 0}", "gaussians.kappa is 0", "give a number above 0"),
        ("prior: {layers: twelve}", "prior.layers is 'twelve'", "give a whole number"),
        ("prior: {layers: true}", "prior.layers is True", "give a whole number"),
        ("prior: {checkpoint_activations: yes}", "is 'yes'", "give true or false"),
        ("prior: {sampler: x}", "prior.sampler is 'x'", "one of ddpm, ddim, dpm++, unipc"),
        ("prior: 5", "my.yaml: prior is 5", "give a mapping of settings"),
        ("decoders: 5", "my.yaml: decoders is 5", "give a mapping by kind"),
        ("evaluation: {steps: 3}", "evaluation.steps is 3", "give a list, each a whole number"),
        ("variants: [shftd-k1]", "variants is 'shftd-k1'", "shifted-k<number>"),
        ("caption_subsets: [5 %]", "caption_subsets is '5 %'", "such as 5%"),
        ("caption_subsets: [101%]", "caption_subsets is '101%'", "from 0% to 100%"),
        ("decoders: {stable_diffusion: {}}", "stable_diffusion.pretrained is missing", "text"),
        ("encoders: {training: null}", "encoders.training", "encoders.clip to [trained]"),
        ("extends: embeddings\nencoders: {training: null}", "to be fitted", "in clip"),
        ("default_decoder: gn", "no decoder 'gn'", "pca, cascade, gan, lafite"),
        ("a: [1", "my.yaml, line 1: expected", "correct the YAML"),
        ("seed: 1\n\nseed: 2", "my.yaml, line 3: seed is there twice", "correct the YAML"),
        ("prior: {heads: 1, heads: 2}", "my.yaml, line 1: heads is there twice", "correct"),
        ("1: 2", "my.yaml, line 1: the key 1 is no word", "correct the YAML"),
        ("- seed", "my.yaml holds no mapping", "write lines such as"),
        ("extends: nope", "my.yaml: extends is 'nope'", "choose one of emoji"),
        ("extends: my.yaml", "my.yaml extends itself", "remove"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_its_remedy(
    tmp_path: Path, text: str, problem: str, remedy: str
) -> None:
    with pytest.raises(CorgiError) as error:
        loaded(tmp_path, text)
    assert problem in error.value.problem
    assert remedy.rstrip("?") in error.value.remedy


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    training = loaded(
        tmp_path, "prior: {training: {learning_rate: 1e-3, steps: 10_000, weight_decay: 0}}"
    ).prior.training
    assert (training.learning_rate, training.steps, training.weight_decay) == (1e-3, 10_000, 0.0)


def test_files_extend_files_and_presets(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "large.yaml").write_text(
        "extends: emoji-small\nprior: {layers: 7, width: 96}\ndecoders: {gan: null}\n"
    )
    preset = loaded(tmp_path, "extends: below/large.yaml\nprior: {layers: 8}\n")
    small = preset_named("emoji-small")
    assert preset.prior == replace(small.prior, layers=8, width=96)
    assert [decoder.kind for decoder in preset.decoders] == ["pca", "cascade", "lafite"]
    assert preset.data == small.data


def test_everything_that_a_preset_decides_can_be_set(tmp_path: Path) -> None:
    """Every setting of the schema is in the file that shows a preset whole."""
    optional = "decoders: {stable_diffusion: {pretrained: some/pipeline}}"
    preset = loaded(tmp_path, f"{optional}\nzero_shot: {{dataset: other}}")
    text = yaml_of(preset_values(preset))
    for path in known_settings():
        assert f"{path.rpartition('.')[2]}:" in text or path in ("clip", "extends"), path


def test_encoders_that_are_named_are_not_trained() -> None:
    layer = assigned("clip=[ViT-B-16/openai, RN101/openai]")
    encoders = load_preset("emoji", [layer]).preset.encoders
    assert encoders.clip == ("ViT-B-16/openai", "RN101/openai")
    assert encoders.training is None
    alone = load_preset("emoji", [assigned("encoders.clip=ViT-B-16/openai")]).preset
    assert alone.encoders.clip == ("ViT-B-16/openai",)


def test_local_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "pipeline").mkdir()
    preset = loaded(
        tmp_path, "clip: [clip, RN50/openai]\ndecoders:\n  stable_diffusion: {pretrained: pipeline}"
    )
    assert preset.encoders.clip == (str(tmp_path / "clip"), "RN50/openai")
    assert preset.decoder_of("stable_diffusion").pretrained == str(tmp_path / "pipeline")


def test_a_decoder_has_the_size_of_the_first_unless_it_says_its_own() -> None:
    layer = assigned("decoders.stable_diffusion.pretrained=some/pipeline")
    preset = load_preset("emoji", [layer]).preset
    assert preset.decoder_of("stable_diffusion").image_size == preset.image_size == 64
    assert preset.digest("decoders") == preset_named("emoji").digest("decoders")


def test_the_default_decoder_is_the_first_or_the_one_named() -> None:
    assert load_preset("emoji").preset.decoder.kind == "pca"
    assert load_preset("emoji", [assigned("default_decoder=gan")]).preset.decoder.kind == "gan"
    assert preset_named("embeddings").decoder is None


def test_the_origin_of_a_setting_is_the_uppermost_layer_that_sets_it(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("extends: emoji-small\nprior: {layers: 7}\n")
    base, layers = file_layers(tmp_path / "my.yaml")
    found = load_preset(
        base or "", [*layers, Layer("CORGI_SEED", {"seed": 1}), assigned("language_free=null")]
    )
    origins = {
        "prior.layers": "my.yaml", "prior.width": "preset emoji-small", "prior.heads":
        "preset emoji", "seed": "CORGI_SEED", "language_free": "--set", "study.training.seed":
        "preset emoji",
    }  # fmt: skip
    assert {path: found.origin_of(path) for path in origins} == origins


def test_settings_are_checked_wherever_they_are_made() -> None:
    training = preset_named("emoji").prior.training
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        replace(training, steps=0)
    with pytest.raises(ValidationError, match="accumulation"):
        replace(training, accumulation=0)
    with pytest.raises(ValidationError, match="unexpected"):
        TrainingSettings(steps=1, batch_size=1, learning_rate=1e-3, rate=1)  # type: ignore[call-arg]


def test_shares_that_leave_nothing_for_training_are_refused() -> None:
    with pytest.raises(CorgiError, match="leave nothing for training") as error:
        load_preset("emoji", [assigned("data.test_fraction=0.95")])
    for key in ("data.test_fraction", "data.validation_fraction"):
        assert key in error.value.remedy


@given(st.text(max_size=40))
def test_any_text_is_a_preset_or_a_refusal(text: str) -> None:
    with suppress(CorgiError):
        load_preset("emoji", [assigned(f"prior.layers={text}")])
