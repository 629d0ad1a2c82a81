"""The styles of rule-drawn avatars: their attributes, the values of each, and the drawing options that show a value.

Options that no attribute sets are the identity, and they stay when one attribute is changed.
"""

from typing import NamedTuple

from datamodules.prepare.npm_packages import Package

VERSION = "9.4.3"
COLOURS = {
    "red": "c62828",
    "blue": "2663c3",
    "green": "2e8b57",
    "yellow": "f2c230",
    "purple": "7a4fa3",
    "black": "222222",
}
HAIR = {"blond": "e8c860", "brown": "6b4220", "black": "1c1614", "red": "b5451b", "grey": "a9a9a9", "blue": "2aa0d0"}
SKIN = {"light": "ffdbb4", "tan": "d9a066", "dark": "8d5524"}
BACKGROUNDS = {"white": "ffffff", "pink": "ffd6e0", "pale blue": "cfe8ff", "pale green": "d5f2d5"}


def numbered(stem: str, *numbers: int) -> list[str]:
    return [f"{stem}{number:02d}" for number in numbers]


def coloured(option: str, colours: dict[str, str], *more: str) -> dict[str, dict]:
    """{colour word: options that set it}."""
    return {word: {name: [value] for name in (option, *more)} for word, value in colours.items()}


def optional(option: str, **worn: list[str]) -> dict[str, dict]:
    """{"none": not drawn, word: one of these variants}."""
    off, on = {f"{option}Probability": 0}, {f"{option}Probability": 100}
    return {"none": off, **{word: {**on, option: variants} for word, variants in worn.items()}}


def hats(option: str, variants: list[str]) -> dict[str, dict]:
    """Hats by colour; none leaves the options as they are."""
    worn = {word: {option: variants, "hatColor": [value], "hatProbability": 100} for word, value in COLOURS.items()}
    return {"none": {"hatProbability": 0}, **worn}


class Style(NamedTuple):
    package: Package
    license: str
    credit: str
    words: str  # what the drawing is
    plural: str
    identity: dict[str, list[str] | int]  # options drawn once per avatar, and probabilities
    attributes: dict[str, dict[str, dict]]  # {attribute: {value: options}}; the later ones override


COMMON = {"background": coloured("backgroundColor", BACKGROUNDS), "skin": coloured("skinColor", SKIN)}
STYLES = {
    "pixel-art": Style(
        Package("@dicebear/pixel-art", VERSION),
        "CC0-1.0",
        "Pixel Art by DiceBear, CC0 1.0",
        "a pixel art avatar",
        "pixel art avatars",
        {
            "eyes": numbered("variant", *range(1, 13)),
            "eyesColor": ["76778b", "5b7c8b", "588387", "876658"],
            "clothing": numbered("variant", 1, 3, 4, 5, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 19, 23),
            "mouth": numbered("happy", *range(1, 14)),
            "mouthColor": ["d29985", "c98276", "e35d6a"],
            "glassesColor": ["191919"],
            "accessoriesProbability": 0,
            "beardProbability": 0,  # a shade of the skin at this resolution
        },
        {
            **COMMON,
            "shirt": coloured("clothingColor", COLOURS),
            "hair_length": {
                "short": {"hair": numbered("short", 1, 2, 3, 8, 9, 10, 14, 15, 16, 17, 22)},
                "long": {"hair": numbered("long", 1, 2, 3, 7, 8, 9, 12, 13, 20, 21)},
            },
            "hair_color": coloured("hairColor", HAIR),
            "glasses": optional(
                "glasses", glasses=numbered("light", 1, 2, 3, 5, 6, 7), sunglasses=numbered("dark", 1, 2, 3, 5, 6, 7)
            ),
            "hat": hats("hat", numbered("variant", *range(1, 11))),
        },
    ),
    "lorelei": Style(
        Package("@dicebear/lorelei", VERSION),
        "CC0-1.0",
        "Lorelei by Lisa Wischofsky, CC0 1.0",
        "an ink drawing of a face",
        "ink drawings of faces",
        {
            "eyes": numbered("variant", *range(1, 25)),
            "eyebrows": numbered("variant", *range(1, 14)),
            "head": numbered("variant", *range(1, 5)),
            "nose": numbered("variant", *range(1, 7)),
            "hair": numbered("variant", *range(1, 49)),
            "hairAccessoriesProbability": 0,
        },
        {
            **COMMON,
            "hair_color": coloured("hairColor", HAIR),
            "mouth": {
                "smiling": {"mouth": numbered("happy", *range(1, 19))},
                "sad": {"mouth": numbered("sad", *range(1, 10))},
            },
            "beard": optional("beard", beard=numbered("variant", 1, 2)),
            "freckles": optional("freckles", freckles=numbered("variant", 1)),
            "earrings": optional("earrings", earrings=numbered("variant", 1, 2, 3)),
            "glasses": optional("glasses", glasses=numbered("variant", *range(1, 6))),
        },
    ),
    "avataaars": Style(
        Package("@dicebear/avataaars", VERSION),
        "LicenseRef-Avataaars",
        "Avataaars by Pablo Stanley, free for personal and commercial use (avataaars.com)",
        "a cartoon avatar",
        "cartoon avatars",
        {
            "eyes": ["default", "happy", "side", "squint", "surprised", "wink"],
            "eyebrows": ["default", "defaultNatural", "flatNatural", "raisedExcited", "upDown"],
            "clothing": ["blazerAndShirt", "collarAndSweater", "hoodie", "overall", "shirtCrewNeck", "shirtVNeck"],
            "style": ["default"],
            "accessoriesColor": ["262e33"],
            "topProbability": 100,
        },
        {
            **COMMON,
            "shirt": coloured("clothesColor", COLOURS),
            "hair_length": {
                "short": {"top": ["shortFlat", "shortRound", "shortWaved", "theCaesar", "theCaesarAndSidePart"]},
                "long": {"top": ["straight01", "straight02", "longButNotTooLong", "bob", "curvy", "bigHair"]},
            },
            "hair_color": coloured("hairColor", HAIR, "facialHairColor"),
            "mouth": {"smiling": {"mouth": ["smile", "twinkle"]}, "sad": {"mouth": ["sad", "concerned"]}},
            "beard": optional("facialHair", beard=["beardLight", "beardMajestic", "beardMedium"]),
            "glasses": optional(
                "accessories",
                glasses=["prescription01", "prescription02", "round"],
                sunglasses=["sunglasses", "wayfarers"],
            ),
            "hat": hats("top", ["hat", "winterHat1", "winterHat02", "winterHat03", "winterHat04"]),
        },
    ),
}
RARE = {"hat": 0.6, "glasses": 0.5, "beard": 0.75, "freckles": 0.7, "earrings": 0.6}  # share of "none"
HIDES = {"hat": ("hair_length", "hair_color")}  # what may lie under a worn attribute, in whole or in part
