"""An edit's file brings back what was saved, on its own base alone; what strangers wrote is refused in one line."""

import importlib.metadata
import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fewstep.fast_edit.application import Application, apply_edit
from fewstep.fast_edit.edit_file import ENTRY, EditAbout, read_edit, save_edit
from fewstep.fast_edit.encoding import Encoding
from fewstep.fast_edit.estimates import GradientMode
from fewstep.fast_edit.loaded_edits import load_edits
from fewstep.fast_edit.tuned import TunedAdapters, TunedCopies
from fewstep.rng import PerSampleRng
from tests.tiny_edit_base import COSINE, base, pictures, pixel_unet, trained

HOW = Application(Encoding(0.4, "ddim", 3), num_steps=2, split=0.1, projection=0.05, strength=0.5)
ABOUT = EditAbout(
    ("face", "man"), ("face with glasses", "man with glasses"), "models/avatars", GradientMode("random_t", t_lo=0.1),
    Encoding(0.4), HOW, "plain", {"passed": True, "realism": 1.1, "sheet": None}, True,
    ("clips/mine",), "clips/other", 4,
)  # fmt: skip
T = torch.tensor([0.1, 0.8])


def adapters(name="glasses", rank=2, alpha=3.0, seed=1, targets=None):
    return trained(TunedAdapters(base(), [name], rank, alpha, targets), seed)


def copies(name="glasses", seed=2):
    tuned, generator = TunedCopies(base(), [name]), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in tuned.parameters(name):
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return tuned


def predicted(tuned, name):
    with torch.no_grad():
        return tuned.predict(pictures(), T, name)


def far(one, other):
    return (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("make", [adapters, copies])
def test_what_was_saved_comes_back(make, tmp_path):
    tuned = make()
    path = save_edit(tmp_path / "new" / "glasses.safetensors", tuned, "glasses", ABOUT)
    edit = read_edit(path)
    assert (edit.name, edit.about) == ("glasses", ABOUT)
    assert edit.base_sha256 == tuned.base.sha256
    assert edit.versions["torch"] == importlib.metadata.version("torch")
    again = load_edits(base(), [path])
    assert again.names == ("glasses",)
    torch.testing.assert_close(predicted(again, "glasses"), predicted(tuned, "glasses"), rtol=0, atol=1e-5)
    assert far(predicted(again, "glasses"), predicted(again, None))
    rng = PerSampleRng(0, ["a", "b"])
    edited = apply_edit(again, pictures(), "glasses", rng, edit.about.application)
    torch.testing.assert_close(edited, apply_edit(tuned, pictures(), "glasses", PerSampleRng(0, ["a", "b"]), HOW))


def test_half_precision_takes_half_the_room_and_changes_little(tmp_path):
    tuned = copies()
    whole = save_edit(tmp_path / "whole.safetensors", tuned, "glasses", ABOUT)
    half = save_edit(tmp_path / "half.safetensors", tuned, "glasses", ABOUT, half=True)
    assert {value.dtype for value in load_file(half).values()} == {torch.float16}
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    torch.testing.assert_close(
        predicted(load_edits(base(), [half]), "glasses"), predicted(tuned, "glasses"), rtol=0, atol=2e-2
    )


def test_sentences_of_ones_own_are_told(tmp_path):
    about = replace(ABOUT, templates=("my {}", "{} on a mat"))
    assert read_edit(save_edit(tmp_path / "glasses.safetensors", adapters(), "glasses", about)).about == about


def test_nothing_is_overwritten_unless_asked(tmp_path):
    tuned, path = adapters(), tmp_path / "glasses.safetensors"
    assert save_edit(path, tuned, "glasses", ABOUT) == path
    before = path.read_bytes()
    assert save_edit(path, tuned, "glasses", ABOUT, half=True).name == "glasses-2.safetensors"
    assert path.read_bytes() == before
    assert save_edit(path, tuned, "glasses", ABOUT, half=True, overwrite=True) == path
    assert len(path.read_bytes()) < len(before)


def test_files_of_other_ranks_scales_and_layers_work_together_as_each_alone(tmp_path):
    given = {
        "glasses": adapters("glasses", 2, 3.0, 1),
        "hat": adapters("hat", 5, 4.0, 2),
        "old": adapters("old", 3, 4.5, 3, ["to_q", "conv1"]),
    }
    files = [save_edit(tmp_path / f"{name}.safetensors", tuned, name, ABOUT) for name, tuned in given.items()]
    together = load_edits(base(), files)
    assert together.names == tuple(given)
    for name, alone in given.items():
        torch.testing.assert_close(predicted(together, name), predicted(alone, name), rtol=0, atol=2e-5)
        assert far(predicted(alone, name), predicted(together, None))
    both = together.predict(pictures(), T, [("hat", 1), ("old", 1)])
    torch.testing.assert_close(both[:1], predicted(given["hat"], "hat")[:1], rtol=0, atol=2e-5)
    torch.testing.assert_close(both[1:], predicted(given["old"], "old")[1:], rtol=0, atol=2e-5)


def test_copies_of_several_files_go_together(tmp_path):
    files = [save_edit(tmp_path / name, copies(name, seed), name, ABOUT) for seed, name in enumerate(("hat", "old"))]
    together = load_edits(base(), files)
    for seed, name in enumerate(("hat", "old")):
        torch.testing.assert_close(predicted(together, name), predicted(copies(name, seed), name), rtol=0, atol=0)


def test_another_base_another_kind_and_a_name_that_comes_twice_are_refused(tmp_path):
    one = save_edit(tmp_path / "one.safetensors", adapters(), "glasses", ABOUT)
    two = save_edit(tmp_path / "two.safetensors", adapters(seed=4), "glasses", ABOUT)
    full = save_edit(tmp_path / "full.safetensors", copies("hat"), "hat", ABOUT)
    other = TunedAdapters(base(pixel_unet(5)), ["hat"], 2)
    foreign = save_edit(tmp_path / "foreign.safetensors", other, "hat", ABOUT)
    with pytest.raises(ValueError, match=r"one\.safetensors and .*two\.safetensors are both named glasses; learn one"):
        load_edits(base(), [one, two])
    with pytest.raises(ValueError, match=r"one\.safetensors is of kind lora, .*full\.safetensors of kind full; only"):
        load_edits(base(), [one, full])
    with pytest.raises(ValueError, match=r"only edits of one base go together"):
        load_edits(base(), [one, foreign])
    with pytest.raises(ValueError, match=r"foreign\.safetensors is an edit of another base, models/avatars \("):
        load_edits(base(), [foreign])
    for other in (base(prediction="v"), base(schedule=COSINE)):  # of the same weights
        with pytest.raises(ValueError, match=r"one\.safetensors is an edit of another base"):
            load_edits(other, [one])
    with pytest.raises(ValueError, match="there is no edit to load"):
        load_edits(base(), [])
    used = base()
    load_edits(used, [one])
    with pytest.raises(ValueError, match="the base has adapters already; load it afresh"):
        load_edits(used, [one])


@pytest.mark.parametrize("merged", [True, False])
def test_edits_are_merged_where_the_base_is_of_float32_and_keep_their_strength(merged, tmp_path):
    tuned, found = adapters(), base()
    path, asked = save_edit(tmp_path / "glasses.safetensors", tuned, "glasses", ABOUT), []
    if not merged:
        found.network.conv_in.double()
    again = load_edits(found, [path])
    for name, part in found.network.named_modules():
        if name.endswith("lora_A.glasses_adapter"):
            part.register_forward_hook(lambda *_, name=name: asked.append(name))
    if merged:
        for strength in (0.0, 0.5, 1.0, 1.5):
            with again.scaled(strength), tuned.scaled(strength):
                expected = predicted(tuned, "glasses")
                torch.testing.assert_close(predicted(again, "glasses"), expected, rtol=0, atol=2e-5)
    else:
        found.network.conv_in.float()
        predicted(again, "glasses")
    assert bool(asked) is not merged


def change(told, state, where, value):
    *parents, last = where.split(".")
    for name in parents:
        told = told[name]
    if value is None:
        del told[last]
    else:
        told[last] = value


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("schema", 2, "it has schema 2, this version of fewstep reads 1"),
        ("name", "../out", "name is '../out', expected a name of letters, digits and _"),
        ("base", None, " has no base"),
        ("base.sha256", 8, "base.sha256 is 8, expected a text"),
        ("kind", "hypernetwork", "kind is 'hypernetwork', expected one of lora, full"),
        ("rank", 10**9, "rank=1000000000: must be at least 1 and at most 1000"),
        ("rank", 3, "and the rank is 3"),
        ("alpha", -1, "alpha is -1, expected a positive number"),
        ("targets", ["mid_block"], "its weights are not those of its 1 layers"),
        ("source", ["face", "man with glasses"], "source and target are both 'man with glasses'"),
        ("source", ["face"], "1 source and 2 target texts"),
        ("templates", "cursed", "templates='cursed': choose one of"),
        ("templates", ["no place"], "template 'no place': must contain one {}"),
        ("templates", [1], "templates"),
        ("encoding.t0", 1.5, "t0=1.5: edits start inside the schedule"),
        ("gradient.t_lo", 0.5, "t_lo=0.5: must be above 0 and at most 0.4"),
        ("application.num_steps", 10**9, "application.num_steps=1000000000: must be"),
        ("application.split", 0.5, "split=0.5: must be at least 0 and at most 0.4"),
        ("application.encoding.kind", "guess", "application.encoding.kind is 'guess', expected one of"),
        ("application.colour", "red", "unexpected keyword argument 'colour'"),
        ("audit", "fine", "audit is 'fine', expected a mapping"),
        ("versions", {"torch": 2}, "versions.torch is 2, expected a text"),
    ],
)
def test_odd_headers_are_one_line(where, value, message, tmp_path):
    path = save_edit(tmp_path / "glasses.safetensors", adapters(), "glasses", ABOUT)
    state = load_file(path)
    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()[ENTRY])
    change(told, state, where, value)
    save_file(state, path, {ENTRY: json.dumps(told)})
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_edit(path)
    line = str(error.value)
    assert line.startswith(f"cannot read the edit {path}: ")
    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff" * 64, "or one with a header above 4194304 bytes"),
        ((9).to_bytes(8, "little") + b"{" * 9, "Expecting property name"),
        ((2).to_bytes(8, "little") + b"{}", "it holds no edit"),
        ((10**6).to_bytes(8, "little") + b'{"__metadata__": {"fewstep_edit": "{}"}}', "it has schema None"),
    ],
)
def test_files_of_something_else_are_one_line(content, message, tmp_path):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^cannot read the edit .*odd\.safetensors: .*{message}"):
        read_edit(path)
    with pytest.raises(ValueError, match=r"there is no edit .*none; give a file that"):
        read_edit(tmp_path / "none")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float64, torch.int32, torch.bool])
def test_weights_of_other_kinds_are_one_line(dtype, tmp_path):
    path = save_edit(tmp_path / "glasses.safetensors", adapters(), "glasses", ABOUT)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({name: weight.to(dtype) for name, weight in load_file(path).items()}, path, metadata)
    with pytest.raises(ValueError, match=rf"^cannot read the edit .*\({dtype}\)") as caught:
        read_edit(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_ends_too_early_is_one_line(tmp_path):
    path = save_edit(tmp_path / "glasses.safetensors", adapters(), "glasses", ABOUT)
    content = path.read_bytes()
    for end in (*range(64), *range(64, len(content), len(content) // 60), len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"^cannot read the edit") as caught:
            read_edit(path)
        assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_refused_before_anything_is_made_of_them(tmp_path):
    path = save_edit(tmp_path / "glasses.safetensors", adapters(), "glasses", ABOUT)
    state = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    name = next(key for key in state if key.endswith("conv1.lora_A.weight"))
    save_file(state | {name: torch.zeros(2, 0, 3, 3)}, path, metadata)
    before = base()
    with pytest.raises(ValueError, match=r"conv1 by weights \[2, 0, 3, 3\] and .* which do not fit the base's"):
        load_edits(before, [path])
    assert not hasattr(before.network, "peft_config")
    save_file(state | {name: torch.full_like(state[name], float("nan"))}, path, metadata)
    with pytest.raises(ValueError, match="does not hold finite numbers"):
        read_edit(path)
    renamed = json.loads(metadata[ENTRY])
    renamed["targets"] = ["elsewhere"]
    only = {"elsewhere.lora_A.weight": torch.zeros(2, 4), "elsewhere.lora_B.weight": torch.zeros(4, 2)}
    save_file(only, path, {ENTRY: json.dumps(renamed)})
    with pytest.raises(ValueError, match="adapts 'elsewhere', and UNet2DModel has no such layer"):
        load_edits(base(), [path])


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    tuned, path = adapters(), tmp_path / "glasses.safetensors"
    with pytest.raises(ValueError, match="the edit's name is 'my glasses', expected"):
        save_edit(path, tuned, "my glasses", ABOUT)
    broken = EditAbout(("face",), ("old face",), "base", audit={"realism": float("nan")})
    with pytest.raises(ValueError, match="glasses cannot be told of in a file: Out of range float"):
        save_edit(path, tuned, "glasses", broken)
    tuned.parameters("glasses")[0].data.fill_(1e6)
    with pytest.raises(ValueError, match="float16"):
        save_edit(path, tuned, "glasses", ABOUT, half=True)
    assert not path.exists()
