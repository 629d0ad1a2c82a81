"""Where the emoji come from, and what their licences ask to be passed on."""

from datamodules.prepare.npm_packages import Package

EMOJIBASE = Package("emojibase-data", "17.0.0")
SOURCES = {  # style: package, path of its pictures, licence, credit
    "noto": (
        Package("emoji-datasource-google", "16.0.0"), r"img/google/64/([0-9a-f-]+)\.png", "Apache-2.0",
        "Noto Emoji v2.048, Google (github.com/googlefonts/noto-emoji), Apache License 2.0",
    ),
    "twemoji": (
        Package("emoji-datasource-twitter", "16.0.0"), r"img/twitter/64/([0-9a-f-]+)\.png", "CC-BY-4.0",
        "Twemoji v16.0.1, Twitter, Inc and other contributors (github.com/jdecked/twemoji), CC-BY 4.0\n"
        "  (creativecommons.org/licenses/by/4.0/)",
    ),
    "fluent": (
        Package("@lobehub/fluent-emoji-3d", "1.1.0"), r"assets/([0-9a-f-]+)\.webp", "MIT",
        "Fluent Emoji 3D, Microsoft Corporation (github.com/microsoft/fluentui-emoji), packed by LobeHub, MIT",
    ),
    "openmoji": (
        Package("openmoji", "17.0.0"), r"color/svg/([0-9A-F-]+)\.svg", "CC-BY-SA-4.0",
        "OpenMoji 17.0.0, the open-source emoji and icon project (openmoji.org), CC-BY-SA 4.0: what is made from this\n"
        "  folder falls under the same licence",
    ),
}  # fmt: skip
NOTICE = """Pictures of this folder, changed: {change}.

{credits}

Labels, tags and groups: emojibase-data 17.0.0, Copyright (c) 2017-2019 Miles Johnson, MIT.
{packed}
"""
MIT = """
MIT License, for what is marked so above: Copyright (c) Microsoft Corporation; Copyright (c) 2023 LobeHub; Copyright (c)
2017-2019 Miles Johnson.

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def notice(styles: list[str], change: str) -> str:
    """The NOTICE of a folder with these styles; `change` says what was done to the pictures."""
    credits = "\n".join(f"* {style}: {SOURCES[style][3]}" for style in styles)
    packed = "Packages: " + ", ".join(f"{SOURCES[style][0].name} {SOURCES[style][0].version}" for style in styles) + "."
    return NOTICE.format(change=change, credits=credits, packed=packed) + MIT
