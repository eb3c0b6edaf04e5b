"""The group of an emoji: its base, so that no variant of it is in another split.

Variants differ in skin tone, gender, hair, direction or presentation alone. Families of any members
are one group: their pictures differ in who stands beside whom.
"""

from __future__ import annotations

import re

_JOINER = "\u200d"
_DROPPED = re.compile(
    "[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]"  # presentation and skin tones
    f"|{_JOINER}[\u2640\u2642\u27a1\U0001f9b0-\U0001f9b3]"  # gender, direction, hair
)
_ADULT, _CHILD, _FAMILY = "\U0001f9d1", "\U0001f9d2", "\U0001f46a"
_OF_NO_GENDER = str.maketrans({
    **dict.fromkeys("\U0001f468\U0001f469\U0001f471", _ADULT),  # man, woman, blond person
    **dict.fromkeys("\U0001f466\U0001f467", _CHILD),  # boy, girl
    **dict.fromkeys("\U0001f474\U0001f475", "\U0001f9d3"),  # old man, old woman
    **dict.fromkeys("\U0001f934\U0001f478", "\U0001fac5"),  # prince, princess: a crown
    **dict.fromkeys("\U0001f930\U0001fac3", "\U0001fac4"),  # pregnant woman, pregnant man
    "\U0001f57a": "\U0001f483",  # man dancing: woman dancing
    "\U0001f385": f"{_ADULT}{_JOINER}\U0001f384",  # Santa Claus: Mx Claus
    "\U0001f936": f"{_ADULT}{_JOINER}\U0001f384",  # Mrs. Claus
    **dict.fromkeys(  # two people holding hands
        "\U0001f46b\U0001f46c\U0001f46d", f"{_ADULT}{_JOINER}\U0001f91d{_JOINER}{_ADULT}"
    ),
    "\U0001f48f": f"{_ADULT}{_JOINER}\u2764{_JOINER}\U0001f48b{_JOINER}{_ADULT}",  # kiss
    "\U0001f491": f"{_ADULT}{_JOINER}\u2764{_JOINER}{_ADULT}",  # couple with heart
})  # fmt: skip
_WRITTEN_AS_SEQUENCES = {  # where two people or hands have each a skin tone
    f"\U0001faf1{_JOINER}\U0001faf2": "\U0001f91d",  # handshake
    f"{_ADULT}{_JOINER}\U0001f430{_JOINER}{_ADULT}": "\U0001f46f",  # people with bunny ears
    f"{_ADULT}{_JOINER}\U0001faef{_JOINER}{_ADULT}": "\U0001f93c",  # people wrestling
}
_FAMILY_OF = re.compile(f"(?:{_ADULT}{_JOINER})*(?:{_ADULT}|{_CHILD})(?:{_JOINER}{_CHILD})+")


def base_of(emoji: str) -> str:
    """The emoji of which this one is a variant, the same for all variants: its code points.

    Examples:
        >>> base_of("👩🏽‍⚕️") == base_of("👨‍⚕️") == base_of("🧑‍⚕️")
        True
        >>> base_of("👍🏿")
        '👍'
    """
    base = _DROPPED.sub("", emoji) or emoji  # a skin tone alone stays
    base = base.translate(_OF_NO_GENDER)
    if _FAMILY_OF.fullmatch(base):
        return _FAMILY
    return _WRITTEN_AS_SEQUENCES.get(base, base)
