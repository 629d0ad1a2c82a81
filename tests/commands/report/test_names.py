import pytest

from commands.report.names import labels, run_labels, settings


def run(checkpoint, steps=None, **more):
    return {"checkpoint": checkpoint, "data": {}, "sampling": {} if steps is None else {"steps": steps}} | more


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["runs/w/a/checkpoints/best.ckpt"], ["a/best"]),
        (["runs/w/a/checkpoints/best.ckpt", "runs/w/b/checkpoints/best.ckpt"], ["a", "b"]),
        (["runs/w/a/checkpoints/best.ckpt", "runs/w/a/checkpoints/last.ckpt"], ["best", "last"]),
        (["runs/v/a/checkpoints/best.ckpt", "runs/w/a/checkpoints/last.ckpt"], ["v/a/best", "w/a/last"]),
        (["x/best.ckpt", "x/best.ckpt"], ["x/best", "x/best"]),
        (["x/a.ckpt", "x/a/b.ckpt"], ["a", "a/b"]),
    ],
)
def test_labels_are_what_tells_checkpoints_apart(paths, expected):
    assert labels(paths) == expected


def test_runs_of_one_pipeline_are_told_apart_by_their_steps():
    both = [run("models/sd-v1.5", 1), run("models/sd-v1.5", 4)]
    assert run_labels(both) == ["models/sd-v1.5, 1 step", "models/sd-v1.5, 4 steps"]
    assert run_labels([run("models/sd-v1.5", 4), run("models/sd-v2.1", 4)]) == ["sd-v1.5", "sd-v2.1"]


def content(objective="marginal", pairs=128, seed=0, **more):
    model = {"class_path": "lightning_modules.OTConditionalModule", "init_args": {"objective": objective, **more}}
    data = {"class_path": "datamodules.PairedVectorsDataModule", "init_args": {"num_pairs": pairs, "path": "data/x"}}
    return {"model": model, "data": data, "seed_everything": seed, "trainer": {"max_steps": 10 * pairs}}


def names(*contents):
    return run_labels([run(f"runs/w/{n}/best.ckpt", settings=settings(each)) for n, each in enumerate(contents)])


def test_runs_are_named_by_what_differs_in_their_configs():
    assert names(content(), content(pairs=512, seed=3)) == ["num_pairs 128, seed 0", "num_pairs 512, seed 3"]
    assert names(content(), content("inverse_ot")) == ["objective marginal", "objective inverse_ot"]


def test_a_class_is_named_by_its_last_word_and_an_option_of_one_run_alone_by_it():
    other = content()
    other["model"]["class_path"] = "lightning_modules.ICDModule"
    assert names(content(), other) == ["OTConditionalModule", "ICDModule"]
    assert names(content(seed=1), content(decay=0.1)) == ["seed 1", "decay 0.1, seed 0"]


def test_options_of_one_name_keep_the_part_above():
    parts = [content(a={"lr": rate}, b={"lr": 1 - rate}) for rate in (0.25, 0.5)]
    assert names(*parts) == ["a.lr 0.25, b.lr 0.75", "a.lr 0.5, b.lr 0.5"]


def test_settings_that_are_too_many_or_tell_nothing_leave_the_folders():
    assert names(content(), content()) == ["0", "1"]
    many = dict.fromkeys("abcde", 1)
    assert names(content(), content(**many)) == ["0", "1"]
    assert run_labels([run("runs/a/x.ckpt", settings=settings(content())), run("runs/b/x.ckpt")]) == ["a", "b"]


def test_runs_of_every_task_are_named_among_themselves():
    """As many settings as lie between two tasks tell nothing; where a name comes twice the folders do."""
    tasks = [{"init_args": {"path": path}} for path in ("x", "x", "y")]
    contents = [content(seed=0), content(seed=1), content(**dict.fromkeys("abcde", 1))]
    parts = list(zip(contents, tasks, strict=True))
    runs = [run(f"runs/{n}/best.ckpt", settings=settings(c), data=d) for n, (c, d) in enumerate(parts)]
    assert run_labels(runs) == ["seed 0", "seed 1", "2"]
    runs.append(
        runs[2] | {"checkpoint": "runs/3/best.ckpt", "settings": settings(contents[2] | {"seed_everything": 1})}
    )
    assert run_labels(runs) == ["0", "1", "2", "3"]
