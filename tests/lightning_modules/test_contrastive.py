"""The module, retrieval and export together, on squares of a few colours that their captions name."""

import itertools
from pathlib import Path

import lightning as L
import open_clip
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.checkpoints.export import Export
from callbacks.metrics.retrieval import RetrievalMetrics
from datamodules import ImageTextDataModule
from datamodules.image_options import Splits
from fewstep.augmentation import Augmentation
from fewstep.contrastive.loss import contrastive_loss, labels_of, retrieval_ranks
from fewstep.contrastive.network import CLIPNetwork
from fewstep.contrastive.vocabulary import share_in_pieces, write_vocabulary
from fewstep.optimizers import AdamW
from fewstep.rewards.clip_scores import load_clip
from lightning_modules import ContrastiveModule

ROOT = Path(__file__).parents[2]
LEVELS = {"no": -1.0, "some": 0.0, "much": 1.0}
THINGS = [
    (f"{r} red, {g} green, {b} blue", torch.tensor([LEVELS[r], LEVELS[g], LEVELS[b]]))
    for r, g, b in itertools.product(LEVELS, repeat=3)
]


def collate(rows):
    return {
        "image": torch.stack([color[:, None, None].expand(3, 16, 16) for _, color, _, _ in rows]).contiguous(),
        "caption": [caption for caption, *_ in rows],
        "key": [f"k{number}" for *_, number, _ in rows],
        "weight": torch.tensor([weight for *_, weight in rows]),
        "names": [None if not weight else [caption, f"{caption} again"] for caption, _, _, weight in rows],
    }


def rows(count=27, world=1, rank=0):
    """Every world-th thing, the last rank's repeated with weight 0 so that all ranks have equally many."""
    total = -(-count // world) * world
    return [(*THINGS[i % count], i, float(i < count)) for i in range(rank, total, world)]


class Data(L.LightningDataModule):
    def __init__(self, batch_size=27, count=27):
        super().__init__()
        self.batch_size, self.count = batch_size, count

    def _loader(self, batch_size):
        world, rank = self.trainer.world_size, self.trainer.global_rank
        return DataLoader(rows(self.count, world, rank), batch_size=batch_size, collate_fn=collate)

    def train_dataloader(self):
        return self._loader(self.batch_size // self.trainer.world_size)

    def val_dataloader(self):
        return self._loader(5)

    test_dataloader = val_dataloader


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "bpe.txt.gz"
    write_vocabulary([caption for caption, _ in THINGS], 560, path)
    return str(path)


def module(vocabulary, **options):
    torch.manual_seed(torch.initial_seed())  # the same weights in every call
    vision = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 16, "width": 32, "heads": 2, "layers": 1}
    options = {"optimizer": AdamW(1e-3, (0.9, 0.98), 0.1, 5), **options}
    return ContrastiveModule(CLIPNetwork(16, vision, text, vocabulary), **options)


def trainer(folder, *callbacks, max_steps=5, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "use_distributed_sampler": False,
    }
    return L.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **quiet,
        **options,
    )


@pytest.fixture(scope="module")
def fitted(vocabulary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    metrics = RetrievalMetrics(ks=(1, 3))
    runner = trainer(folder, metrics, Export(), max_steps=150, check_val_every_n_epoch=150)
    net = module(vocabulary, optimizer=AdamW(3e-3, (0.9, 0.98), 0.1, 5))
    first = runner.validate(net, Data(), verbose=False)[0]
    runner.fit(net, Data())
    last = runner.test(net, Data(), verbose=False)[0]
    return net, folder, first, last, metrics


@pytest.mark.parametrize("own", [True, False])
def test_a_vocabulary_of_another_data_set_is_said_before_the_first_step(vocabulary, tmp_path, capsys, own):
    other = tmp_path / "other.txt.gz"
    write_vocabulary(["rats, cats and bats sat on mats"] * 2, 540, other)
    trainer(tmp_path, max_steps=2).fit(module(vocabulary if own else str(other)), Data())
    said = capsys.readouterr().err
    assert said.count("is another data set's") == (0 if own else 1)
    assert own or said.startswith(f"vocabulary {other} is another data set's: ")


def test_words_in_pieces_are_counted_as_often_as_they_occur(vocabulary):
    tokenizer = open_clip.SimpleTokenizer(bpe_path=vocabulary)
    assert share_in_pieces(["red", "red green blue", ""], tokenizer) == 0
    assert share_in_pieces(["red zyxw", "zyxw"], tokenizer) == 2 / 3
    assert share_in_pieces([], tokenizer) == 0


@pytest.mark.learns
def test_learns_to_find_colours_by_their_names_and_back(fitted, below):
    _, _, first, last, _ = fitted
    below("image_to_text_r1 at first", first["val/image_to_text_r1"], 0.3)
    below("misses of image_to_text_r1", 1 - last["test/image_to_text_r1"], 0.2)
    below("misses of text_to_image_r3", 1 - last["test/text_to_image_r3"], 0.05)
    below("loss", last["test/loss"], first["val/loss"] / 2)


def test_retrieval_is_the_share_of_right_first_places(fitted):
    net, _, _, last, metrics = fitted
    batch = collate(rows())
    with torch.no_grad():
        similarity = net.model.encode_image(batch["image"]) @ net.model.encode_text(batch["caption"]).T
    right = torch.arange(27)
    found = {"image_to_text": similarity, "text_to_image": similarity.T}
    for way, scores in found.items():
        assert last[f"test/{way}_r1"] == pytest.approx((scores.argmax(1) == right).float().mean().item())
        top = (scores.topk(3).indices == right[:, None]).any(1).float().mean().item()
        assert last[f"test/{way}_r3"] == pytest.approx(top)
    recalls = [value for name, value in last.items() if name[-3:] in ("_r1", "_r3")]
    assert last["test/mean_recall"] == pytest.approx(sum(recalls) / 4)
    low, high = metrics.intervals(num_draws=200)["test/image_to_text_r1"]
    assert low <= last["test/image_to_text_r1"] <= high


def test_a_training_leaves_a_folder_for_open_clip(fitted):
    net, folder, *_ = fitted
    clip = open_clip.create_model(f"local-dir:{folder / 'export'}", require_pretrained=True).eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder / 'export'}")(["no red, much green, no blue"])
    expected = net.model.encode_text(["no red, much green, no blue"])
    torch.testing.assert_close(clip.encode_text(tokens, normalize=True), expected, rtol=0, atol=5e-3)


def test_padding_is_no_candidate_and_no_query(vocabulary, tmp_path):
    net = module(vocabulary)
    net.log = lambda key, value, **options: logged.update({key: value, "rows": options["batch_size"]})
    logged = {}
    batch, padded = collate(rows(4)), collate([*rows(4), (*THINGS[9], 4, 0.0), ("", THINGS[0][1], 5, 0.0)])
    with torch.no_grad():
        loss = net.validation_step(batch, 0)["loss"]
        expected = logged["val/loss"]
        both = net.validation_step(padded, 0)
        torch.testing.assert_close(both["loss"], torch.cat([loss, torch.zeros(2)]))
        torch.testing.assert_close(logged["val/loss"], expected)
        assert logged["rows"] == 4
        net.validation_step({**padded, "weight": torch.zeros(6)}, 0)
        assert logged["val/loss"] == 0


class Descent(ContrastiveModule):
    """Plain gradient descent: Adam would blow up rounding errors where a gradient is 0."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_two_processes_train_and_measure_as_one(vocabulary, tmp_path):
    results = []
    for options in ({}, {"strategy": "ddp_fork", "devices": 2}):
        net = module(vocabulary)
        net = Descent(net.model)
        # 13 things, 12 of them in training batches: the second process has a padding row in validation.
        runner = trainer(tmp_path, RetrievalMetrics(), max_steps=2, limit_train_batches=2, **options)
        runner.fit(net, Data(batch_size=6, count=13))
        results.append((net.state_dict(), {k: v.item() for k, v in runner.callback_metrics.items()}))
    for name, weight in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], weight, rtol=1e-4, atol=1e-6, msg=name)
    recalls = {name for name in results[0][1] if "_r" in name}
    assert recalls == {f"val/{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5)} | {
        "val/mean_recall"
    }
    for name in recalls:
        assert results[1][1][name] == pytest.approx(results[0][1][name]), name


def test_learning_rate_rises_and_falls_and_only_matrices_decay(vocabulary, tmp_path):
    net = module(vocabulary, optimizer=AdamW(1e-2, (0.9, 0.98), 0.3, 4))
    rates = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    runner = trainer(tmp_path, Watch(), max_steps=8, limit_val_batches=0)
    runner.fit(net, Data())
    half = [1.0, 0.853553, 0.5, 0.146447]  # (1 + cos(pi k / 4)) / 2
    assert rates == pytest.approx([1e-2 * share for share in (0.25, 0.5, 0.75, 1.0, *half)], rel=1e-4)
    groups = runner.optimizers[0].param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_lists_of_captions_are_drawn_from_in_training_only(vocabulary):
    net = module(vocabulary, caption_field="names")
    seen = []
    encode = net.model.encode_text
    net.model.encode_text = lambda captions: seen.append(captions) or encode(captions)
    net.log = lambda *_, **__: None
    batch = collate([*rows(20), (*THINGS[0], 20, 0.0)])
    with torch.no_grad():
        net.validation_step(batch, 0)
        net.training_step(batch, 0)
    assert seen[0] == [*batch["caption"][:20], ""]
    again = sum(caption.endswith("again") for caption in seen[1])
    assert 0 < again < 20


def test_missing_captions_are_named(vocabulary):
    net = module(vocabulary, caption_field="scoring_captions")
    with pytest.raises(ValueError, match=r"--data\.metadata"):
        net.training_step(collate(rows(4)), 0)
    with pytest.raises(ValueError, match="sample k2 has no 'scoring_captions'"):
        net.validation_step({**collate(rows(4)), "scoring_captions": [["a"], ["b"], None, ["d"]]}, 0)
    for wrong in (7, {"text": "a"}, ["a", 3]):
        with pytest.raises(ValueError, match="sample k1: 'scoring_captions' in its json is no caption and no list"):
            net.validation_step({**collate(rows(4)), "scoring_captions": [["a"], wrong, "c", ["d"]]}, 0)


def test_what_a_variant_lacks_is_named(vocabulary):
    net, batch = module(vocabulary, variant={"edited": "edited_caption"}), collate(rows(4))
    net.log = lambda *_, **__: None
    for step in (net.training_step, net.validation_step):
        with pytest.raises(ValueError, match=r"no 'edited': list it in --data\.images"):
            step({**batch, "edited_caption": batch["caption"]}, 0)
        with pytest.raises(ValueError, match=r"'edited_caption': .* --data\.metadata or set --model\.variant null"):
            step({**batch, "edited": batch["image"]}, 0)


def test_a_field_names_further_positives(vocabulary):
    batch = {**collate(rows(4)), "concept": ["a", "b", "a", "c"]}
    losses = {}
    for field in (None, "key", "concept"):
        net = module(vocabulary, positive_field=field).eval()
        net.log = lambda *_, **__: None
        losses[field] = net.training_step(batch, 0)
        image, text = net.model.encode_image(batch["image"]), net.model.encode_text(batch["caption"])
    torch.testing.assert_close(losses["key"], losses[None])
    expected = contrastive_loss(image, text, net.model.scale, torch.tensor([0, 1, 0, 2])).mean()
    torch.testing.assert_close(losses["concept"], expected)
    assert abs(losses["concept"] - losses[None]) > 1e-5


def with_variants(count):
    """A batch and beside each picture another one with its own caption."""
    batch, other = collate(rows(count)), collate([(*THINGS[-1 - i], i, 1.0) for i in range(count)])
    return {**batch, "edited": other["image"], "edited_caption": other["caption"]}


def test_variants_are_trained_on_beside_the_pictures(vocabulary):
    batch, losses = with_variants(4) | {"concept": ["a", "b", "a", "c"]}, {}
    for field in (None, "concept"):
        net = module(vocabulary, positive_field=field, variant={"edited": "edited_caption"}).eval()
        net.log = lambda *_, **__: None
        losses[field] = net.training_step(batch, 0)
        image = net.model.encode_image(torch.cat([batch["image"], batch["edited"]]))
        text = net.model.encode_text(batch["caption"] + batch["edited_caption"])
    scale = net.model.scale
    torch.testing.assert_close(losses[None], contrastive_loss(image, text, scale).mean())
    labels = torch.tensor([0, 1, 0, 2, 3, 4, 5, 6])  # of the variants none is a positive of another sample
    torch.testing.assert_close(losses["concept"], contrastive_loss(image, text, scale, labels).mean())


def test_variant_accuracy_is_the_share_of_nearer_captions(vocabulary):
    batch, logged = with_variants(9), {}
    batch["weight"][-1] = 0
    net = module(vocabulary, variant={"edited": "edited_caption"}).eval()
    net.log = lambda key, value, **_: logged.update({key: value.item()})
    net.validation_step(batch, 0)
    right = []
    for row in range(8):
        image = net.model.encode_image(torch.stack([batch["image"][row], batch["edited"][row]]))
        text = net.model.encode_text([batch["caption"][row], batch["edited_caption"][row]])
        nearest = (image @ text.T).argmax(1).tolist()
        right += [nearest[0] == 0, nearest[1] == 1]
    assert logged["val/variant_accuracy"] == pytest.approx(sum(right) / 16)
    assert 0 < sum(right) < 16


def test_only_training_pictures_are_augmented(vocabulary):
    batch, seen = collate(rows(4)), []
    net = module(vocabulary, augmentation=Augmentation(noise=0.5)).eval()
    net.log, encode = lambda *_, **__: None, net.model.encode_image
    net.model.encode_image = lambda images: seen.append(images) or encode(images)
    net.training_step(batch, 0)
    net.validation_step(batch, 0)
    assert not torch.equal(seen[0], batch["image"])
    assert torch.equal(seen[1], batch["image"])


@pytest.mark.parametrize(
    ("name", "field", "tower"),
    [("clip_emoji", "captions", "VisionTransformer"), ("clip_emoji_scorer", "scoring_captions", "TimmModel")],
)
def test_shipped_networks_know_the_drawings_they_saw(name, field, tower):
    folder = ROOT / "assets" / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20e6
    data = ImageTextDataModule(
        str(ROOT / "data" / "emoji64"), splits=Splits(test="train", num_test=100), metadata=[field], num_workers=0
    )
    clip = load_clip(f"local-dir:{folder}", None)
    assert type(clip.model.visual).__name__ == tower
    image, text, captions = [], [], []
    for batch in data.test_dataloader():
        captions += (first := [several[0] for several in batch[field]])
        image.append(clip.embed_images(data.on_after_batch_transfer(batch, 0)["image"]))
        text.append(clip.embed_prompts(first))
    ranks = retrieval_ranks(torch.cat(image), torch.cat(text), labels_of(captions))
    assert (ranks < 1).float().mean() > 0.5  # chance: 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_scale": 0.5}, "max_scale=0.5"), ({"max_scale": 1.0}, "max_scale=1.0"), ({"variant": {}}, "variant={}")],
)
def test_bad_options_are_named(options, message, vocabulary):
    with pytest.raises(ValueError, match=message):
        module(vocabulary, **options)


def test_callbacks_say_what_they_need():
    with pytest.raises(ValueError, match="ks="):
        RetrievalMetrics(ks=())
    with pytest.raises(ValueError, match="text_features"):
        RetrievalMetrics().on_validation_batch_end(None, None, {"loss": 0}, {}, 0)
    with pytest.raises(ValueError, match="no export"):
        Export().setup(None, L.LightningModule(), "fit")
