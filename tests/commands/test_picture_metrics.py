"""A metric of pictures asked of vectors is refused before its network, the data or the model are looked at."""

import pytest

import train
from callbacks.metrics.catalogue import CHOICES
from commands.picture_metrics import is_of_pictures, reads_vectors, require_pictures
from datamodules import ImageTextDataModule, PairedVectorsDataModule

VECTORS, PICTURES = "datamodules.PairedVectorsDataModule", "datamodules.ImageTextDataModule"


@pytest.mark.parametrize("metric", ["FIDCallback", "callbacks.CLIPScoreCallback"])
def test_a_fit_on_vectors_refuses_it_first(config, monkeypatch, capsys, metric):
    for name in ("FIDInception", "TwoSamples"):
        monkeypatch.setattr(f"callbacks.metrics.fid.{name}", None)  # whoever calls it fails
    flags = ["--data", VECTORS, "--data.path", "nowhere", "--callbacks.quality", metric]
    assert train.main(["fit", "-c", str(config), *flags]) == 2
    told = "callbacks.quality measures pictures, and PairedVectorsDataModule reads vectors; switch it off: "
    assert capsys.readouterr().err == f"error: {told}--callbacks.quality null\n"
    assert [file.name for file in config.parent.iterdir()] == ["tiny.yaml"]


def test_pictures_may_be_measured_and_vectors_by_what_fits_them():
    fid, transport = {"a": CHOICES["fid"].callback}, {"a": CHOICES["transport"].callback}
    require_pictures(fid, PICTURES, "")
    require_pictures(transport, VECTORS, "")
    with pytest.raises(ValueError, match=r"^a measures pictures, and PairedVectorsDataModule reads vectors; do not$"):
        require_pictures(transport | fid, VECTORS, "do not")
    assert not is_of_pictures("callbacks.EMA")
    assert (reads_vectors(PairedVectorsDataModule), reads_vectors(ImageTextDataModule)) == (True, False)
