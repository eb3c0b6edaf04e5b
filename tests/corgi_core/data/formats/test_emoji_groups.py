"""No two variants of an emoji are in two splits, judged by the names of all emojis there are."""

import re
from collections import defaultdict

from emoji import EMOJI_DATA

from corgi_core.data.formats.emoji_groups import base_of
from corgi_core.data.splits import Splits

TONE = re.compile(r"_(?:medium-)?(?:light|medium|dark)_skin_tone")
HAIR = re.compile(r"_(?:red|curly|white|blond)_hair$|_bald$|_facing_right$")
GENDER = re.compile(
    r"(?<![^_])(?:men|women|people|man|woman|boy|girl)(?![^_])|(?<=mer)(?:man|maid)"
)
GENDERED = {
    "mrs._claus": "mx_claus", "santa_claus": "mx_claus", "prince": "person_with_crown",
    "princess": "person_with_crown", "boy": "child", "girl": "child",
}  # fmt: skip


def name_of_base(name: str) -> str:
    """The name of an emoji without skin tone, hair, direction and gender."""
    plain = HAIR.sub("", TONE.sub("", name.strip(":").lower()))
    name = GENDER.sub("person", GENDERED.get(plain, plain))
    return re.sub("^person_(?!in_|with_)", "", name)


def test_emojis_whose_names_differ_in_variants_alone_are_one_group() -> None:
    groups = defaultdict(set)
    for emoji, data in EMOJI_DATA.items():
        groups[name_of_base(data["en"])].add(base_of(emoji))
    assert {name: found for name, found in groups.items() if len(found) > 1} == {}
    assert 1500 < len(groups) < len(EMOJI_DATA) / 2


def test_other_emojis_are_groups_of_their_own() -> None:
    """But for families, couples and the old, whose names differ in more."""
    names = defaultdict(set)
    for emoji, data in EMOJI_DATA.items():
        names[base_of(emoji)].add(name_of_base(data["en"]))
    several = {base: found for base, found in names.items() if len(found) > 1}
    assert several.keys() == {"👪", "🧓", "🧑‍❤‍🧑", "🧑‍❤‍💋‍🧑", "🧑‍🤝‍🧑"}


def test_no_variant_is_in_another_split() -> None:
    emojis = list(EMOJI_DATA)
    groups = [base_of(emoji) for emoji in emojis]
    splits = Splits(0.1, 0.05, seed=0)
    splits.note(groups, [None] * len(groups))
    decided = dict(zip(emojis, splits.decide(groups, [None] * len(groups)), strict=True))
    by_name = defaultdict(set)
    for emoji, data in EMOJI_DATA.items():
        by_name[name_of_base(data["en"])].add(decided[emoji])
    assert {len(found) for found in by_name.values()} == {1}
    assert set(decided.values()) == {"train", "validation", "test"}
