"""Captions of emoji drawings from label, tags, style and skin tone, by fixed templates.

There are two sets, which share neither a template nor a style word: `captions` to train and to condition on, and
`scoring_captions` for a scoring network that is to be trained on other wording than the generator it will judge.
"""

TONES = ("none", "light", "medium-light", "medium", "medium-dark", "dark")
TRAIN_WORDS = {  # (what the drawing is, the style in short)
    "noto": ("a soft drawing", "soft"),
    "twemoji": ("a flat drawing", "flat"),
    "fluent": ("a 3D drawing", "3D"),
    "openmoji": ("an outlined drawing", "outlined"),
}
SCORING_WORDS = {
    "noto": ("gentle shading", "shaded icon"),
    "twemoji": ("plain colours", "vector icon"),
    "fluent": ("glossy volume", "rendered icon"),
    "openmoji": ("black contours", "line icon"),
}
WITHOUT_ARTICLE = {  # labels, or what stands before their "with", that are no countable noun
    "with", "bacon", "badminton", "baseball", "basketball", "bowling", "bread", "breast-feeding", "broccoli",
    "butter", "camping", "cinema", "cooked rice", "cooking", "coral", "curry rice", "dashing away", "divide", "dizzy",
    "dna", "field hockey", "fire", "flatbread", "fog", "foggy", "garlic", "globe showing Americas", "high voltage",
    "horse racing", "ice", "ice hockey", "infinity", "information", "lacrosse", "leafy green", "left luggage",
    "locked", "luggage", "minus", "mount fuji", "Mrs. Claus", "multiply", "Mx Claus", "nail polish",
    "non-potable water", "oden", "om", "ping pong", "plus", "popcorn", "potable water", "pouring liquid",
    "prohibited", "radioactive", "registered", "rock", "rolling on the floor laughing", "sake", "salt", "Santa Claus",
    "shaved ice", "soap", "softball", "spaghetti", "star-struck", "sushi", "tennis", "thread", "tofu", "unlocked",
    "upside-down", "vibration mode", "volleyball", "warning", "wireless", "wood", "yarn", "yin yang", "ZZZ", "Aries",
    "Taurus", "Gemini", "Cancer", "Leo", "Virgo", "Libra", "Scorpio", "Sagittarius", "Capricorn", "Aquarius",
    "Pisces", "Ophiuchus",
}  # fmt: skip
BARE_FIRST_WORDS = {"people", "men", "women", "no", "palms", "thumbs", "input"}
SINGULAR_IN_S = ("ss", "us", "lis", "rhinoceros")
CUT = ("with", "of", "in", "on", "from", "without", "over", "showing", "pointing", "behind", "lifting", "holding")
AN_DESPITE_SPELLING = ("hour", "x-ray", "SOS")
A_DESPITE_SPELLING = ("uni", "one", "eu", "ewe", "UP")


def phrase(label: str) -> str:
    """A label as in a sentence: "red apple" -> "a red apple", "man: red hair" -> "a man with red hair"."""
    head, _, rest = label.partition(": ")
    if head == "flag":
        return f"the flag of {rest}"
    if head == "keycap":
        return f"a keycap {rest}"
    if rest == "bald":
        return f"a bald {head}"
    noun = head if _is_bare(head) else f"{_article(head)} {head}"
    return f"{noun} with {rest.replace(', ', ' and ')}" if rest else noun


def _is_bare(noun: str) -> bool:
    """Whether it goes without an article: plurals, names and what cannot be counted."""
    words = noun.split()
    if noun in WITHOUT_ARTICLE or words[0] in BARE_FIRST_WORDS:
        return True
    end = next((place for place, word in enumerate(words) if place and word in CUT), len(words))
    head = " ".join(words[:end])  # "cat with tears of joy" is as countable as "cat"
    last = words[end - 1]
    return head in WITHOUT_ARTICLE or (last.endswith("s") and not last.endswith(SINGULAR_IN_S))


def _article(noun: str) -> str:
    if noun.startswith(AN_DESPITE_SPELLING):
        return "an"
    return "an" if noun[0] in "aeiouAEIO" and not noun.startswith(A_DESPITE_SPELLING) else "a"


def captions(label: str, tags: list[str], style: str, tone: str) -> list[str]:
    """Five or more captions, from the plain full one to the tags alone; without repetition."""
    drawing, short = TRAIN_WORDS[style]
    what, skin = phrase(label), f" with {tone} skin" if tone != "none" else ""
    full = f"{what} and {tone} skin" if skin and " with " in what else f"{what}{skin}"
    few = ", ".join(tags[:3])
    lines = [
        f"{drawing} of {full}",
        f"{drawing} of {what}",
        full,
        f"{label}, {short}",
        f"{short}: {few}" if few else f"{short}: {what}",
        few or f"{label} picture",
    ]
    spare = [f"picture, {label}", f"{short} picture, {label}"]  # where label, noun and tags are one word
    distinct = list(dict.fromkeys(lines))
    return distinct + spare[: max(0, 5 - len(distinct))]


def scoring_captions(label: str, tags: list[str], style: str, tone: str, subject: str) -> list[str]:
    """Four captions in other wording; `subject` is the emoji's subgroup in words, such as "food fruit"."""
    manner, icon = SCORING_WORDS[style]
    bare = label.replace(":", ",")
    skin = f", {tone} skin tone" if tone != "none" else ""
    last = " and ".join(tags[-2:]) or bare
    return [
        f"{bare}{skin} in {manner}",
        f"{icon} showing {bare}",
        f"emoji about {last}{skin}",
        f"{icon}, {subject}{skin}",
    ]
