"""`python -m fewstep.fast_edit`: from files to files; what is refused before any network is loaded."""

import io
import json
import re
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.backbones.pipelines import save_ddpm
from fewstep.fast_edit import __main__ as fast_edit
from fewstep.fast_edit.application import Application, apply_edit
from fewstep.fast_edit.audit.report import AuditReport, Signal
from fewstep.fast_edit.command_line import auditing, learning, readers, single
from fewstep.fast_edit.command_line.given_pictures import fitted, given_pictures, selected_pictures
from fewstep.fast_edit.direction.text_direction import text_direction
from fewstep.fast_edit.edit_base import load_base
from fewstep.fast_edit.edit_file import EditAbout, read_edit, save_edit
from fewstep.fast_edit.encoding import Encoding
from fewstep.fast_edit.loaded_edits import load_edits
from fewstep.fast_edit.own_size import edit_at_own_size, shown_size
from fewstep.fast_edit.tuned import TunedAdapters
from fewstep.files.pictures import read_picture, read_whole, to_picture
from fewstep.rewards.attribute_reader import AttributeReader
from fewstep.rng import PerSampleRng
from tests.tiny_clip import tiny_clip, word_clip
from tests.tiny_edit_base import base, pictures, pixel_unet, trained

HOW = Application(Encoding(0.4), num_steps=2, projection=0.05, projection_steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, two edits of it, one of another base, and pictures of several sizes."""
    folder = tmp_path_factory.mktemp("fast_edit")
    save_base(folder / "base", 0)
    save_base(folder / "other", 1)
    for name, of, rank in (("hat", "base", 2), ("old", "base", 3), ("foreign", "other", 2)):
        tuned = trained(TunedAdapters(load_base(folder / of), [name], rank), rank)
        about = EditAbout(("face",), ("old face",), str(folder / of), application=HOW, clips=("mine",), judge="other")
        save_edit(folder / f"{name}.safetensors", tuned, name, about)
    (folder / "pictures").mkdir()
    for number, image in enumerate(pictures(5)):
        to_picture(image).save(folder / "pictures" / f"{number}.png")
    to_picture(pictures(1, 8, 8)[0]).resize((30, 20)).save(folder / "pictures" / "wide.png")
    (folder / "many").mkdir()
    for number, image in enumerate(pictures(40, seed=4)):
        to_picture(image).save(folder / "many" / f"{number:02}.png")
        told = {"attributes": {"hat": "red" if number % 2 else "none"}}
        (folder / "many" / f"{number:02}.json").write_text(json.dumps(told))
    return folder


def save_base(folder, seed):
    save_ddpm(folder, pixel_unet(seed))
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "other", "third"):
        (tmp_path / name).mkdir()  # where an edit's file finds the CLIPs that it names

    def clip(source, enlarge=1):
        if source == "alike":
            return word_clip("face")
        return tiny_clip({"mine": 0, "other": 1, "third": 2}[source])

    for module in (learning, single, auditing):
        monkeypatch.setattr(module, "load_edit_clip", clip)
    monkeypatch.setattr(readers, "load_attribute_reader", lambda folder: reader(len(folder)))

    def run(*arguments, code=0):
        capsys.readouterr()
        assert fast_edit.main(list(map(str, arguments))) == code
        out, err = capsys.readouterr()
        return err if code == 2 else out

    return run


def reader(seed):
    torch.manual_seed(seed)
    values = {"hat": ["none", "red"], "hair": ["short", "long"]}
    return AttributeReader(values, "convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, 32).eval()


def pixels(file):
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


def as_pixels(image):
    return np.asarray(to_picture(image)).astype(int)


def test_apply_writes_what_the_library_gives_and_touches_no_input(run, folder, tmp_path):
    before = {file: file.read_bytes() for file in (folder / "pictures").iterdir()}
    told = run("apply", folder / "hat.safetensors", folder / "pictures", "--out", "out", "--strength", 0.5, "--seed", 3)
    assert re.fullmatch(r"out  6 pictures  hat 0\.5 \(not audited\)  \d+ network passes each  \d+\.\d s in all\n", told)
    tuned = load_edits(load_base(folder / "base"), [folder / "hat.safetensors"])
    how = Application(HOW.encoding, 2, strength=0.5, projection=0.05, projection_steps=2)
    image = read_picture(folder / "pictures" / "3.png", 8)
    edited = apply_edit(tuned, image, "hat", PerSampleRng(3, ["3"]), how)
    assert np.abs(pixels("out/3.png") - as_pixels(edited)).max() <= 1
    assert np.abs(pixels("out/3.png") - as_pixels(image)).max() > 2
    assert pixels("out/wide.png").shape == (20, 30, 3)
    run("apply", folder / "hat.safetensors", folder / "pictures", "--out", "out", "--strength", 0)
    assert (pixels("out/wide-2.png") == pixels(folder / "pictures" / "wide.png")).all()
    assert before == {file: file.read_bytes() for file in (folder / "pictures").iterdir()}
    mine = tmp_path / "mine"
    (mine / "3.png").write_bytes(before[folder / "pictures" / "3.png"])
    run("apply", folder / "hat.safetensors", mine, "--out", "mine", "--overwrite")
    assert (mine / "3.png").read_bytes() == before[folder / "pictures" / "3.png"]
    assert (mine / "3-2.png").is_file()


def test_pictures_are_cut_or_padded_as_asked(run, folder):
    common = "apply", folder / "hat.safetensors", folder / "pictures" / "wide.png", "--strength", 0
    run(*common, "--crop", "center", "--out", "cut")
    wide = folder / "pictures" / "wide.png"
    assert np.abs(pixels("cut/wide.png") - as_pixels(read_picture(wide, 8))).max() <= 1
    run(*common, "--crop", "none", "--size", "8x16", "--out", "padded")
    assert np.abs(pixels("padded/wide.png") - as_pixels(read_picture(wide, (8, 16), "none"))).max() <= 1
    run("apply", folder / "hat.safetensors", wide, "--no-residual", "--out", "plain")
    assert pixels("plain/wide.png").shape == (8, 8, 3)


def test_a_file_names_nothing_that_is_downloaded(run, folder, tmp_path):
    tuned, wide = trained(TunedAdapters(load_base(folder / "base"), ["hat"], 2), 2), folder / "pictures" / "wide.png"
    for named, clip in (("owner/model", "mine"), (str(folder / "base"), "hf-hub:owner/clip")):
        about = EditAbout(("face",), ("old face",), named, application=HOW, clips=(clip,), judge="other")
        save_edit(tmp_path / "theirs.safetensors", tuned, "hat", about, overwrite=True)
        told = run("audit", "theirs.safetensors", wide, "--force", code=2)
        name, option = ("owner/model", "--base") if named == "owner/model" else (clip, "--clip")
        assert f"theirs.safetensors names {name}, which is no folder here; give {option}, if you trust it" in told
    save_edit(tmp_path / "theirs.safetensors", tuned, "hat", EditAbout(("face",), ("old face",), "a/b"), overwrite=True)
    assert "names a/b, which is no folder here; give --base" in run("apply", "theirs.safetensors", wide, code=2)
    run("apply", "theirs.safetensors", wide, "--base", folder / "base")


def test_mix_is_by_weights(run, folder):
    wide = folder / "pictures" / "0.png"
    run("mix", wide, "--edit", f"{folder / 'hat.safetensors'}=0.7", "--edit", f"{folder / 'old.safetensors'}=0.5")
    tuned = load_edits(load_base(folder / "base"), [folder / "hat.safetensors", folder / "old.safetensors"])
    edited = apply_edit(tuned, read_picture(wide, 8), {"hat": 0.7, "old": 0.5}, PerSampleRng(0, ["0"]), HOW)
    assert np.abs(pixels("edited/0.png") - as_pixels(edited)).max() <= 1
    told = run("mix", wide, "--edit", folder / "hat.safetensors", "--edit", folder / "foreign.safetensors", code=2)
    assert "only edits of one base go together" in told


@pytest.mark.parametrize("size", [(8, 8), (20, 30), (16, 16), (9, 33)])
def test_what_differs_is_enlarged_and_added(size):
    tuned = trained(TunedAdapters(base(), ["hat"], 2))
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) - 0.5
    edited = edit_at_own_size(tuned, image, "hat", PerSampleRng(0, ["a"]), HOW)
    assert edited.shape == image.shape
    height, width = shown_size(size, tuned.base)
    assert height % tuned.base.factor == width % tuned.base.factor == 0
    assert 0.5 < height * width / 64 < 2
    assert 0.5 < (height / width) / (size[0] / size[1]) < 2
    with pytest.raises(ValueError, match="too long for a model of squares"):
        shown_size((8, 80), tuned.base)


def test_an_enlarged_drawing_is_edited_as_the_drawing(tmp_path):
    tuned, small = trained(TunedAdapters(base(), ["hat"], 2)), pictures(1)
    large = small.repeat_interleave(3, 2).repeat_interleave(3, 3)
    edited = edit_at_own_size(tuned, large, "hat", PerSampleRng(0, ["a"]), HOW)
    photo = torch.rand(1, 3, *large.shape[2:], generator=torch.Generator().manual_seed(0)) - 0.5
    beside = edit_at_own_size(tuned, torch.cat([photo, large]), "hat", PerSampleRng(0, ["b", "a"]), HOW)
    torch.testing.assert_close(beside[1:], edited, rtol=0, atol=1e-4)
    alone = apply_edit(tuned, small, "hat", PerSampleRng(0, ["a"]), HOW)
    torch.testing.assert_close(edited, alone.repeat_interleave(3, 2).repeat_interleave(3, 3), rtol=0, atol=1e-4)
    to_picture(large).save(tmp_path / "large.png")
    assert (as_pixels(fitted(tmp_path / "large.png", (8, 8), "center")) == as_pixels(small)).all()
    assert torch.equal(
        fitted(tmp_path / "large.png", (8, 16), "none"), read_picture(tmp_path / "large.png", (8, 16), "none")
    )


def test_pictures_come_from_files_folders_and_shards(folder, tmp_path):
    (tmp_path / "data").mkdir()
    for split, names in (("train", ("a.png", "a.edited.png", "a.json", "b.png")), ("val", ("c.png",))):
        with tarfile.open(tmp_path / "data" / f"{split}-0.tar", "w") as shard:
            for name in names:
                content = (folder / "pictures" / "0.png").read_bytes()
                member = tarfile.TarInfo(name)
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    found = given_pictures([tmp_path / "data", folder / "pictures" / "wide.png", folder / "pictures"], 5)
    assert [picture.key for picture in found] == ["a", "b", "wide", "0", "1"]
    assert torch.equal(read_whole(found[0].content), read_whole(folder / "pictures" / "0.png"))
    assert given_pictures([folder / "pictures" / "0.png", folder / "pictures"])[1].key == "0-2"
    (tmp_path / "data" / "train-1.tar").write_bytes(b"no shard" * 200)
    with pytest.raises(ValueError, match=r"cannot read the shard .*train-1\.tar: "):
        given_pictures([tmp_path / "data"])
    with pytest.raises(ValueError, match="there is no picture in"):
        given_pictures([folder / "base"])


def test_pictures_are_chosen_by_their_attributes(folder, tmp_path):
    found, passed_over = selected_pictures([folder / "many"], 3, {"hat": "red"})
    assert ([picture.key for picture in found], passed_over) == (["01", "03", "05"], 3)
    with tarfile.open(tmp_path / "train-0.tar", "w") as shard:
        for name in ("00.edited.png", "00.json", "00.png", "01.json", "01.png", "02.png"):
            stem, _, suffix = name.partition(".")
            content = (folder / "many" / f"{stem}.{suffix.removeprefix('edited.')}").read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    found, passed_over = selected_pictures([tmp_path / "train-0.tar"], 1, {"hat": "red"})
    assert ([picture.key for picture in found], passed_over) == (["01"], 1)
    with pytest.raises(ValueError, match=r"train-0\.tar: 02 has no attributes in a \.json beside it"):
        selected_pictures([tmp_path / "train-0.tar"], 2, {"hat": "red"})


LEARN = ["--source", "face", "--target", "old face", "--clip", "mine", "--judge-clip", "other", "--passes", 1]
LEARN += ["--num-steps", 1, "--projection", 0, "--templates", "plain", "--rank", 2]
FEW = ["--num-pictures", 3, "--num-held-out", 2, "--batch-size", 2, "--force"]
ENOUGH = ["--num-pictures", 3, "--num-held-out", 16, "--batch-size", 2]
WORDS = ["--judge-source", "young", "--judge-target", "aged"]


class Verdict:
    """An auditor of a mind of its own, which keeps what it has seen."""

    def __init__(self, passes):
        self.value, self.seen, self.given = 1.0 if passes else 3.0, [], []

    def of(self, *given, **more):
        self.given.append(given)
        return self

    def __call__(self, sources, edits):
        self.seen.append(edits)
        values = torch.full((len(edits),), self.value)
        return AuditReport((Signal("realism", values, values > 2, 1.15, geometric=True),), True)


@pytest.fixture
def verdict(monkeypatch):
    def verdict(passes):
        auditor = Verdict(passes)
        monkeypatch.setattr(auditing, "Auditor", auditor.of)
        return auditor

    return verdict


def test_what_fails_is_kept_aside_and_what_is_forced_says_so(run, folder, verdict):
    verdict(passes=False)
    command = ["learn", folder / "base", *LEARN, "--pictures", folder / "many", "--name", "aged"]
    told = run(*command, *ENOUGH, code=1)
    assert re.match(r"audit failed: realism 3\.00 above 1\.15  sheet aged-audit\.png  kept aside as aged\.failed", told)
    edit = read_edit("aged.failed.safetensors")
    assert (edit.name, edit.about.audit["passed"], edit.about.forced) == ("aged", False, False)
    picture = folder / "pictures" / "0.png"
    assert "aged 1 (failed its audit)  " in run("apply", "aged.failed.safetensors", picture)
    run(*command, *FEW, "--t0", 0.5)
    edit = read_edit("aged.safetensors")
    assert (edit.about.source, edit.about.target) == (("face",), ("old face",))
    assert (edit.about.forced, edit.about.audit["passed"], edit.about.clips) == (True, False, ("mine",))
    assert edit.about.encoding.t0 == edit.about.application.encoding.t0 == 0.5
    assert (edit.about.application.num_steps, edit.rank, edit.about.judge) == (1, 2, "other")
    assert max(weight.abs().max() for name, weight in edit.state.items() if "lora_B" in name) > 0
    assert "aged 1 (forced)  " in run("apply", "aged.safetensors", picture)


def test_what_passes_is_saved_as_it_was_judged(run, folder, verdict):
    auditor = verdict(passes=True)
    command = ["learn", folder / "base", *LEARN, *ENOUGH, "--pictures", folder / "many", "--half", "--lr", 0.3]
    told = run(*command, "--train-encoding", "ddim", "--lacking", "hat=none", "--num-pictures", 2)
    assert re.match(
        r"old_face\.safetensors  \d+ kB  learnt from 2 pictures \(17 others passed over\), 1 updates in .* s, "
        r"loss .* to .*  audit passed on 16 pictures",
        told,
    )
    edit = read_edit("old_face.safetensors")
    assert (edit.about.encoding.kind, edit.about.application.encoding.kind) == ("ddim", "ddim")
    assert not edit.about.forced
    held_out = sorted((folder / "many").glob("*[02468].png"))[2:18]
    tuned = load_edits(load_base(folder / "base"), ["old_face.safetensors"])
    rng = PerSampleRng(0, [file.stem for file in held_out])
    sources = torch.cat([read_picture(file, 8) for file in held_out])
    edited = apply_edit(tuned, sources, "old_face", rng, edit.about.application)
    torch.testing.assert_close(edited, auditor.seen[0], rtol=0, atol=1e-5)
    assert (edited - sources).abs().max() > 0.05
    told = run("apply", "old_face.safetensors", folder / "pictures" / "0.png", "--encoding", "stochastic")
    assert "old_face 1  " in told
    run(*command, "--train-encoding", "ddim", "--apply-encoding", "stochastic")
    about = read_edit("old_face-2.safetensors").about
    assert (about.encoding.kind, about.application.encoding.kind) == ("ddim", "stochastic")


def test_the_judge_is_asked_in_its_own_words(run, folder, verdict):
    """The held-out direction is that of its sentences; in the file they are kept for a later audit by the same CLIP."""
    auditor = verdict(passes=True)
    run("learn", folder / "base", *LEARN, *ENOUGH, *WORDS, "--pictures", folder / "many")
    about = read_edit("old_face.safetensors").about
    assert (about.judge_source, about.judge_target) == (("young",), ("aged",))
    own = text_direction(tiny_clip(0), "face", "old face", "plain")
    words = text_direction(tiny_clip(1), "young", "aged", "plain")
    audit = ["audit", "old_face.safetensors", folder / "many"]
    run(*audit)
    for of_training, held_out, *_ in auditor.given:
        torch.testing.assert_close(of_training.direction, own)
        torch.testing.assert_close(held_out.direction, words)
    run(*audit, "--judge-clip", "third")  # which need not know these words
    wanted = text_direction(tiny_clip(2), "face", "old face", "plain")
    torch.testing.assert_close(auditor.given[-1][1].direction, wanted)


def test_the_dictionary_has_words_for_the_judge_of_its_domain_alone():
    options = fast_edit.parser().parse_args(["learn", "base", "--edit", "avatar_glasses", "--pictures", "none"])
    plan = learning.plan_edit(options)
    assert len(plan.about.judge_source) == len(plan.about.judge_target) == 6
    assert "figure: skin light, shirt red, hair length short, hair color brown, glasses, no hat" in str(plan.about)
    assert (plan.asked, plan.drawn) == ({"glasses": "glasses"}, True)
    exported = EditAbout(plan.about.source, plan.about.target, "base")  # as a run does, without a judge
    words = learning.words_of_dictionary(exported, "assets/clip_avatars_scorer")
    assert words == (plan.about.judge_source, plan.about.judge_target)
    assert learning.words_of_dictionary(exported, "another") == ((), ())
    assert learning.words_of_dictionary(EditAbout(("a",), ("b",), "base"), "assets/clip_avatars_scorer") == ((), ())
    options.judge_clip, options.asked = "another", [("glasses", "sunglasses")]
    plan = learning.plan_edit(options)
    assert plan.about.judge_source == ()
    assert plan.asked == {"glasses": "sunglasses"}


def test_a_reader_judges_what_a_gate_has_chosen(run, folder, verdict):
    auditor = verdict(passes=True)
    command = ["learn", folder / "base", *LEARN, *ENOUGH, "--pictures", folder / "many", "--asked", "hat=red"]
    command += ["--num-pictures", 4, "--passes", 6, "--gate", "gate", "--reader", "judge-of-hats"]
    told = run(*command, "--hides", "hat=hair", "--enough", 0.01)
    judge = auditor.given[0][3]
    assert (judge.asked, judge.hides) == ({"hat": "red"}, {"hat": ["hair"]})
    found = re.search(
        r"learnt from 4 pictures, (\d+) updates in .*, kept after (\d+), where the gate finds it in", told
    )
    assert int(found[2]) <= int(found[1]) <= 12
    told = run(*[word if word != "judge-of-hats" else "edge" for word in command], code=2)  # the same weights
    assert "--gate and --reader are the same network" in told


def test_audit_tells_a_table_and_fails_by_its_exit_code(run, folder, tmp_path, verdict):
    edit = tmp_path / "hat.safetensors"
    edit.write_bytes((folder / "hat.safetensors").read_bytes())
    told = run("audit", edit, folder / "many", "--num-pictures", 17, "--strength", 0, code=1)
    table = {line.split()[0]: line for line in told.splitlines()[:-1]}
    rows = ["signal", "realism", "high_frequency", "trained_direction", "held_out_direction", "direction_gap"]
    assert list(table) == rows
    assert re.fullmatch(r"realism +1\.00 +1\.00 to 1\.00 +<= 1\.15 +0", table["realism"])
    assert re.fullmatch(r"trained_direction +0\.00 +0\.00 to 0\.00 +>= 0\.2 +17  FAILS", table["trained_direction"])
    last = told.splitlines()[-1]
    assert re.match(r"audit failed: trained direction 0\.00 below 0\.2  sheet .*hat-audit\.png  \d", last)
    assert Image.open(tmp_path / "hat-audit.png").width > 4 * 100
    told = run("audit", edit, folder / "many", "--num-pictures", 4, code=2)
    assert "4 pictures for the audit: at least 16 are needed, as fewer pass by chance; give more, or --force" in told
    verdict(passes=True)
    told = run("audit", edit, folder / "many", "--num-pictures", 4, "--force")
    assert "audit passed on 4 pictures" in told


def test_an_edit_without_a_judge_is_told_what_it_needs_before_its_base_is_loaded(run, folder, tmp_path):
    tuned = trained(TunedAdapters(load_base(folder / "base"), ["hat"], 2), 2)
    save_edit(tmp_path / "own.safetensors", tuned, "hat", EditAbout(("face",), ("old face",), "gone", clips=("mine",)))
    told = run("audit", "own.safetensors", folder / "many", code=2)
    assert "own.safetensors names no CLIP that was held out, and by its own alone nothing passes; give --judge" in told
    told = run("audit", "own.safetensors", folder / "many", "--judge-clip", "mine", code=2)
    assert "the edit is learnt from mine, which can be no judge of it" in told


def test_the_judge_of_a_single_picture_chooses_nothing(run, folder):
    """Whatever CLIP judges, the picture is the same; at its own size."""
    wide = folder / "pictures" / "wide.png"
    command = ["edit", folder / "base", *LEARN, "--picture", wide, "--passes", 3]
    told = run(*command)
    found = re.match(
        r"edited\.png  old_face  update (\d) of 3 chosen by held-back views of mine \([\d.]+\)  other says ([\d.]+), "
        r"and ([\d.]+) of the picture as it was  learnt in",
        told,
    )
    assert 1 <= int(found[1]) <= 3
    assert pixels("edited.png").shape == (20, 30, 3)
    assert (pixels("edited.png") != pixels(wide)).any()
    assert "third says " in run(*command, "--judge-clip", "third")
    assert (pixels("edited.png") == pixels("edited-2.png")).all()
    told = run(*command, "--gate", "gate", "--asked", "hat=red", "--enough", 0.01)
    assert "chosen by gate (" in told
    with open("options.yaml", "w") as file:
        file.write(f"# of this base\nbase: {folder / 'base'}\nsource: face\ntarget: old face\nclip: mine\npasses: 1\n")
    run("edit", "@options.yaml", "--judge-clip", "other", "--picture", wide, "--templates", "plain")
    assert pixels("edited-4.png").shape == (20, 30, 3)


CHEAP = [
    (["learn", "BASE", "--pictures", "PICTURES"], "say what to learn: --edit NAME, or --source and --target"),
    (
        ["learn", "BASE", "--pictures", "PICTURES", "--source", " ", "--target", "a"],
        "source text ' ': must not be empty",
    ),
    (["learn", "BASE", "--pictures", "PICTURES", "--source", "a", "--target", "a"], "source and target are both 'a'"),
    (["learn", "BASE", "--pictures", "PICTURES", "--edit", "glases"], "did you mean glasses"),
    (["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--t0", "1.5"], "t0=1.5: edits start inside the schedule"),
    (
        ["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--name", "a b"],
        "--name is 'a b', expected a name of letters",
    ),
    (["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--out", "a.pt"], "--out a.pt: give the edit's file a name"),
    (["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--num-held-out", "16"], "leave none to learn from"),
    (
        ["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--num-held-out", "15"],
        "15 pictures for the audit: at least",
    ),
    (["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--reader", "x"], "--reader needs --asked"),
    (["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--hides", "hat=hair"], "--hides need --reader FOLDER"),
    (["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--gate", "x"], "--gate needs --asked"),
    (["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--enough", "0.9"], "--enough needs --gate"),
    (["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--asked", "hat=red"], "--asked needs a reader to ask"),
    (["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--judge-source", "a"], "1 source and 0 target texts"),
    (
        ["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--clip", "other"],
        "learnt from other, which can be no judge",
    ),
    (
        ["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--rank", "2000"],
        "rank=2000: must be at least 1 and at most",
    ),
    (["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--num-steps", "2000"], "application.num_steps=2000: must be"),
    (
        ["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--out", "/proc/a.safetensors"],
        "nothing can be written there",
    ),
    (
        ["learn", "BASE", "--pictures", "PICTURES", *LEARN, "--lacking", "hat=none"],
        "has no attributes in a .json beside",
    ),
    (["learn", "BASE", "--pictures", "MANY", *LEARN, "--lacking", "hat=blue"], "none of the 40 pictures in"),
    (["edit", "BASE", *LEARN, "--picture", "PICTURE", "--asked", "hat=red"], "--asked needs a reader to ask: --gate"),
    (["learn", "BASE", "--pictures", "nowhere.png", *LEARN], "the picture nowhere.png does not exist"),
    (["apply", "HAT", "PICTURES", "--num-steps", "0"], "num_steps=0: must be at least 1"),
    (["apply", "HAT", "PICTURES", "--split", "0.9"], "split=0.9: must be at least 0 and at most 0.4"),
    (["apply", "HAT", "BROKEN"], "broken.png is not a picture of PNG"),
    (["apply", "none.safetensors", "PICTURES"], "there is no edit none.safetensors"),
    (["apply", "BROKEN", "PICTURES"], "cannot read the edit"),
    (["apply", "HAT", "PICTURES", "--out", "HAT"], "is a file; name another folder"),
    (["apply", "HAT", "PICTURES", "--device", "abacus"], "--device 'abacus'"),
    (["mix", "PICTURES", "--edit", "HAT", "--edit", "HAT"], "an --edit is given twice"),
    (["edit", "BASE", *LEARN, "--picture", "BROKEN"], "broken.png is not a picture of PNG"),
    (["edit", "BASE", *LEARN, "--picture", "PICTURE", "--out", "a.jpg"], "--out a.jpg: give the edited picture a name"),
]


@pytest.mark.parametrize(("command", "message"), CHEAP, ids=[f"{row[0][0]}-{n}" for n, row in enumerate(CHEAP)])
def test_what_is_cheap_to_refuse_is_refused_before_a_network_is_loaded(
    command, message, run, folder, tmp_path, monkeypatch
):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n" + bytes(50))
    places = {"BASE": "no such base", "PICTURES": folder / "pictures", "PICTURE": folder / "pictures" / "0.png"}
    places |= {"MANY": folder / "many", "HAT": folder / "hat.safetensors", "BROKEN": tmp_path / "broken.png"}
    told = run(*(places.get(word, word) for word in command), code=2)
    assert told.startswith("error: ")
    assert message in told
    assert told.count("\n") == 1


def test_another_base_and_texts_that_a_clip_cannot_tell_apart_are_one_line(run, folder):
    told = run("apply", folder / "hat.safetensors", folder / "pictures", "--base", folder / "other", code=2)
    assert "hat.safetensors is an edit of another base" in told
    words = ["--source", "xylophone", "--target", "zither", "--clip", "alike", "--templates", "plain"]
    told = run("learn", folder / "base", *words, *FEW, "--pictures", folder / "pictures", code=2)
    assert "this CLIP cannot tell 'xylophone' from 'zither'" in told
