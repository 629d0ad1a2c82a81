"""What an ICD run exports, with random students of a random pipeline for 16 px."""

import torch

from fewstep.backbones import load_latent_diffusion, save_guided_network
from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.students import adapter_students
from fewstep.icd.pair import InvertibleConsistency
from tests.tiny_diffusion import unet, write_pipeline

SCALES = (1.0, 4.0, 12.0)
BOUNDARIES = Boundaries((0.0, 0.26, 0.52, 0.78, 1.0))


def write_export(folder):
    """FOLDER/export, which refers to FOLDER/pipeline and FOLDER/guided."""
    guided = unet(time_cond_proj_dim=16)
    torch.nn.init.normal_(guided.time_embedding.cond_proj.weight, std=0.3)
    save_guided_network(folder / "guided", guided, SCALES)
    places = write_pipeline(folder / "pipeline", "sd"), str(folder / "guided")
    model = load_latent_diffusion(*places)
    students = adapter_students(model, rank=2)
    for weight in students.weights.parameters():
        torch.nn.init.normal_(weight.data, std=0.1)
    (folder / "export").mkdir()
    students.save(folder / "export")
    networks = students.networks
    pair = InvertibleConsistency(model, networks.forward, networks.reverse, BOUNDARIES, SCALES)
    pair.describe(folder / "export", *places, students.settings)
    return folder / "export"
