"""Mistakes in groups of arguments, said in one line: a setting that a group lacks, and one outside of its group."""

import re
from collections.abc import Sequence

from commands.config_keys import Configs, given_keys, where
from commands.option_groups import places_in_groups


def option_of_a_group(message: str) -> str | None:
    """GROUP.NAME of a setting that a group, in a config or on the command line, does not have."""
    if found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        return found[2] if found[2].startswith(f"{found[1]}.") else f"{found[1]}.{found[2]}"
    found = re.search(r"unrecognized arguments: --([^\s=]+)", message)
    return found[1] if found else None


def without_group(key: str, option: str, known: Sequence[str], configs: Configs, argv: Sequence[str]) -> str | None:
    """One line for an argument that stands in a group now, and all others of its section like it; None for another."""
    if not places_in_groups(option, known):
        return None
    section = key.replace(".init_args", "")
    given = [name.removeprefix(f"{section}.") for name in given_keys(configs, argv) if name.startswith(f"{section}.")]
    places = {name: places_in_groups(name, known) for name in [option, *given] if name not in known}
    written = {name: " or ".join(f"{section}.{place}" for place in found) for name, found in places.items() if found}
    others = [f"{place} for {name}" for name, place in written.items() if name != option]
    likewise = f", likewise {', '.join(others)}" if others else ""
    place = where(f"{section}.{option}", configs, argv)
    return f"unknown key '{section}.{option}'; write {written[option]}{likewise}{place}"
