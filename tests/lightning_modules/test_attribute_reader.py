"""Training of a reader on pictures whose attributes are plain: what is told, padding, persons, calibrated export."""

import json
import multiprocessing

import lightning as L
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from callbacks.checkpoints.export import Export
from fewstep.augmentation import Augmentation
from fewstep.optimizers import AdamW
from fewstep.rewards.attribute_reader import AttributeReader, fitted_temperature, load_attribute_reader
from lightning_modules import AttributeReaderModule
from tests.patience import PATIENCE

VALUES = {"sky": ["dark", "bright"], "ground": ["red", "green", "blue"]}
PERSONS = [{"sky": sky, "ground": ground} for sky in VALUES["sky"] for ground in VALUES["ground"]]
SIZE = 32


def picture(person):
    """The upper half tells the sky, the lower half the ground."""
    image = torch.full((3, SIZE, SIZE), 0.8 if person.get("sky") == "bright" else -0.8)
    image[:, SIZE // 2 :] = -0.8
    if "ground" in person:
        image[VALUES["ground"].index(person["ground"]), SIZE // 2 :] = 0.8
    return image


def scene(persons):
    return torch.cat([picture(person) for person in persons], 2)


def reader():
    return AttributeReader(VALUES, "convnext_atto", {"depths": [1] * 4, "dims": [8] * 4}, SIZE)


def batch(persons, weight=None, **more):
    several = [p if isinstance(p, list) else [p] for p in persons]
    return {
        "image": torch.stack([scene(p) for p in several]),
        "attributes": persons,
        "key": [f"k{place}" for place in range(len(persons))],
        "weight": torch.ones(len(persons)) if weight is None else torch.tensor(weight),
        **more,
    }


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **quiet,
        **options,
    )


def loader(*batches):
    return DataLoader(list(batches), batch_size=None)


def fixed(answers):
    """A reader that answers with these logits whatever it sees, {attribute: [rows, values]}."""
    model = reader()
    model.logits = lambda images: {name: torch.tensor(values)[: len(images)] for name, values in answers.items()}
    return model


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_evaluation_counts_what_is_told_of_pictures_that_count(tmp_path):
    """Three pictures, the last padding; of the second no ground is told."""
    answers = {"sky": [[0.0, 3.0], [1.0, 0.0]], "ground": [[0.0, 0.0, 1.0], [9.0, 0.0, 0.0]]}
    module = AttributeReaderModule(fixed(answers))
    rows = batch([PERSONS[3], {"sky": "bright"}, PERSONS[0]], [1.0, 1.0, 0.0])
    rows["image"][2], rows["attributes"][2] = torch.nan, None
    logged = trainer(tmp_path).validate(module, loader(rows), verbose=False)[0]
    sky = F.cross_entropy(torch.tensor(answers["sky"]), torch.tensor([1, 1]), reduction="none")
    ground = F.cross_entropy(torch.tensor(answers["ground"])[:1], torch.tensor([0]))
    assert logged["val/attributes_right"] == pytest.approx((1 / 2 + 0) / 2)
    assert logged["val/all_right"] == 0.0
    assert logged["val/loss"] == pytest.approx(((sky[0] + ground) / 2 + sky[1]).item() / 2, rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_every_person_of_a_scene_counts(tmp_path):
    answers = {"sky": [[0.0, 3.0], [0.0, 3.0]], "ground": [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]}
    rows = batch([[{"sky": "bright", "ground": "red"}, {"sky": "dark", "ground": "green"}]])
    logged = trainer(tmp_path).test(AttributeReaderModule(fixed(answers)), loader(rows), verbose=False)[0]
    assert logged["test/attributes_right"] == 0.75
    assert logged["test/all_right"] == 0.0


def test_the_loss_is_the_mean_over_attributes_and_all_fields_of_pictures():
    """Against cross-entropies written out; the second field has no ground told."""
    torch.manual_seed(0)
    module = AttributeReaderModule(reader(), {"image": "attributes", "edited": "edited_attributes"})
    module.log = lambda *_, **__: None
    after = [{"sky": "dark"}, {"sky": "bright"}]
    rows = batch(PERSONS[:2], edited=torch.stack([picture(p) for p in after]), edited_attributes=after)
    loss = module.training_step(rows, 0)
    with torch.no_grad():
        logits = module.model.logits(torch.cat([rows["image"], rows["edited"]]))
    sky = F.cross_entropy(logits["sky"], torch.tensor([0, 0, 0, 1]))
    ground = F.cross_entropy(logits["ground"][:2], torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(((sky + ground) / 2).item(), rel=1e-5)


@pytest.mark.learns
@pytest.mark.filterwarnings("ignore:.*(does not have many workers|overrides)")
def test_a_verifier_learns_what_is_right_and_what_is_not(tmp_path, below):
    """Every value of all six pictures is asked; the export is sure on the right side of 1/2."""
    torch.manual_seed(torch.initial_seed())
    model = AttributeReader(VALUES, "convnext_atto", {"depths": [1] * 4, "dims": [8] * 4}, SIZE, "sigmoid")
    module = AttributeReaderModule(model, optimizer=AdamW(lr=1e-2, warmup_steps=5))
    rows = batch(PERSONS)
    fit = trainer(tmp_path, max_steps=60, callbacks=[Export()])
    fit.fit(module, loader(*[rows] * 60), loader(rows))
    fit.validate(module, loader(rows), verbose=False)
    fit.test(module, loader(rows), verbose=False)
    again = load_attribute_reader(tmp_path / "export")
    with torch.no_grad():
        found = again(rows["image"])
    wrong = [
        (log_p[row, place].exp() > 0.5).item() != (person[name] == value)
        for name, log_p in found.items()
        for row, person in enumerate(PERSONS)
        for place, value in enumerate(VALUES[name])
    ]
    below("wrong answers", sum(wrong) / len(wrong), 0.15)


def test_a_batch_of_which_nothing_is_told_changes_nothing():
    module = AttributeReaderModule(reader())
    module.log = lambda *_, **__: None
    module.training_step(batch([{"sky": "dark"}]), 0).backward()
    assert all((p.grad is None or not p.grad.any()) for p in module.model.heads["ground"].parameters())


@pytest.mark.learns
@pytest.mark.filterwarnings("ignore:.*(does not have many workers|overrides)")
def test_it_learns_and_its_export_reads_alike(tmp_path, below):
    """Six pictures that differ in two plain ways; 12 of 12 answers are right long before the end."""
    torch.manual_seed(torch.initial_seed())
    module = AttributeReaderModule(
        reader(), augmentation=Augmentation(shift=1, noise=0.1), optimizer=AdamW(lr=1e-2, warmup_steps=5)
    )
    rows = batch(PERSONS)
    fit = trainer(tmp_path, max_steps=60, callbacks=[Export()])
    fit.fit(module, loader(*[rows] * 60), loader(rows))
    below("wrong", 1 - fit.validate(module, loader(rows), verbose=False)[0]["val/all_right"], 0.1)
    fit.test(module, loader(batch(PERSONS[:1])), verbose=False)  # calibrates nothing
    again = load_attribute_reader(tmp_path / "export")
    assert json.loads((tmp_path / "export" / "config.json").read_text())["values"] == VALUES
    with torch.no_grad():
        logits, found = module.model.eval().logits(rows["image"]), again(rows["image"])
    for place, (name, values) in enumerate(logits.items()):
        assert torch.equal(found[name].argmax(1), values.argmax(1))
        right = torch.tensor([VALUES[name].index(person[name]) for person in PERSONS])
        assert again.temperatures[place] == pytest.approx(fitted_temperature(values, right), rel=1e-2)
    assert next(iter(again.parameters())).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attributes": [None, {}]}, "sample k0 has no 'attributes' in its json"),
        ({"attributes": [{"sky": "grey"}, PERSONS[0]]}, "attribute sky='grey': known values are dark, bright"),
    ],
)
def test_samples_without_attributes_are_one_line(change, message):
    module = AttributeReaderModule(reader())
    with pytest.raises(ValueError, match=message):
        module.training_step(batch(PERSONS[:2]) | change, 0)


def test_a_field_that_is_not_read_says_where_to_list_it():
    rows = batch(PERSONS[:2])
    del rows["attributes"]
    with pytest.raises(ValueError, match=r"no 'attributes': list it in --data\.metadata"):
        AttributeReaderModule(reader()).training_step(rows, 0)


def test_an_export_needs_an_evaluation(tmp_path):
    with pytest.raises(ValueError, match="not calibrated: validate it before the export"):
        AttributeReaderModule(reader()).export(str(tmp_path))


def test_pictures_that_the_batch_lacks_are_named():
    net = AttributeReaderModule(reader(), {"image": "attributes", "edited": "attributes"})
    with pytest.raises(ValueError, match=r"the batch has no 'edited': list it in --data\.images"):
        net.training_step(batch(PERSONS), 0)


def _calibrated(rank, world, file, batches, answers):
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    answers.put(_temperatures(batches[rank::world]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _temperatures(batches):
    module = AttributeReaderModule(reader())
    module.evaluated = batches
    module.on_validation_epoch_end()
    return module.model.temperatures.tolist()


def test_processes_calibrate_by_the_pictures_of_all(tmp_path):
    """One of the three has seen no picture."""
    labels = {"sky": torch.tensor([0, 1, 0, 1, 1]), "ground": torch.tensor([0, 1, 2, -1, 2])}
    torch.manual_seed(0)
    logits = {name: torch.randn(5, len(values)) for name, values in VALUES.items()}
    rows = [
        ({n: v[at] for n, v in logits.items()}, {n: v[at] for n, v in labels.items()}) for at in ([0, 1], [2, 3, 4])
    ]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    arguments = (3, tmp_path / "rendezvous", rows, answers)
    processes = [context.Process(target=_calibrated, args=(rank, *arguments)) for rank in range(3)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=PATIENCE) for _ in processes]
    for process in processes:
        process.join(60)
    alone = _temperatures(rows)
    assert alone != [1.0, 1.0]
    assert found == [pytest.approx(alone, rel=1e-5)] * 3
