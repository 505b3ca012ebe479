"""Names as people write them: with tags, of the hub, in another case, with other signs."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from kdbench.cli import main
from kdbench.errors import ConfigError, UnknownMethodError, unknown
from kdbench.models import ModelSource, create_model, model_source, plain_name, split_pair
from kdbench.models.builtin import MODELS

COMMIT = "0" * 40


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("timm/resnet50.a1_in1k", "timm/resnet50"),
        ("timm/resnet18.tv_in1k", "timm/resnet18"),
        ("torchvision/resnet18.IMAGENET1K_V1", "torchvision/resnet18"),
        ("timm/tv_resnet50", "timm/resnet50"),
        ("hf-hub:timm/resnet50.a1_in1k", "timm/resnet50"),
        ("timm/hf_hub:timm/resnet50.a1_in1k", "timm/resnet50"),
    ],
)
def test_a_tag_names_weights_that_are_not_loaded(name, plain):
    short, note = plain_name(name)
    assert short == plain
    assert note.startswith(f"{name} is {plain} here: the ")
    assert "weights, which are not loaded" in note


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("timm/resnet50", "timm/resnet50"),
        ("wrn16_2", "wrn16_2"),
        ("timm/nothing.like_it", "timm/nothing.like_it"),
        ("hf-hub:somebody/small", "hf-hub:somebody/small"),
        (f"hf_hub:somebody/small@{COMMIT}", f"hf:somebody/small@{COMMIT}"),
    ],
)
def test_other_names_need_no_word(name, plain):
    assert plain_name(name) == (plain, "")


def test_a_network_itself_has_one_name():
    with pytest.raises(UnknownMethodError, match=r"are not loaded .*; write timm/resnet50$"):
        create_model("timm/resnet50.a1_in1k", 10)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("resnet18", "'timm/resnet18' or 'torchvision/resnet18'"),
        ("ResNet18", "'timm/resnet18' or 'torchvision/resnet18'"),
        ("WRN16-2", "'wrn16_2'"),
        ("wrn-16-2", "'wrn16_2'"),
        ("WRN_16_2", "'wrn16_2'"),
        ("timm/wrn16_2", "'wrn16_2'"),
        ("timm:resnet18", "'timm/resnet18'"),
        ("torchvision.resnet18", "'torchvision/resnet18'"),
        ("torchvision/resnet18d", "'timm/resnet18d'"),
        ("timm/resnet5o", "'timm/resnet50'"),
        ("torchvision/resnet5o", "'torchvision/resnet50'"),
        ("mobilenetv2", "'torchvision/mobilenet_v2'"),
        ("wrn16_22", "'wrn16_2'"),
    ],
)
def test_the_name_that_is_meant_is_suggested(name, meant):
    with pytest.raises(UnknownMethodError) as caught:
        model_source(name)
    assert f"did you mean {meant}?" in str(caught.value)


@pytest.mark.parametrize(
    ("what", "name", "existing", "meant"),
    [
        ("dataset", "CIFAR-10", ["cifar10", "gtsrb"], "'cifar10'"),
        ("defense", "Robust-KD", ["robustkd", "nad"], "'robustkd'"),
        ("attack", "badnet", ["badnets", "lba"], "'badnets'"),
        ("preset", "QUICK", ["quick", "paper"], "'quick'"),
    ],
)
def test_names_of_every_kind_are_compared_alike(what, name, existing, meant):
    assert f"did you mean {meant}?" in unknown(what, name, existing)


def test_nothing_is_suggested_where_nothing_is_close():
    assert unknown("thing", "zzz", ["a"]) == "unknown thing 'zzz'; known: a"
    assert unknown("thing", "--", ["a"]) == "unknown thing '--'; known: a"


@pytest.mark.parametrize(
    "pair",
    [
        "wrn16_2_wrn16_1",
        "wrn16_2,wrn16_1",
        "wrn16_2/wrn16_1",
        "WRN16-2-WRN16-1",
        "wrn16_2 -> wrn16_1",
    ],
)
def test_a_pair_with_other_signs_is_suggested(pair):
    with pytest.raises(ConfigError, match=r"did you mean 'wrn16_2-wrn16_1'\?"):
        split_pair(pair)


def test_a_name_with_a_dash_may_be_in_a_pair():
    sources = {**MODELS, "my-net": MODELS["wrn10_1"]}
    assert split_pair("my-net-wrn16_1", sources) == ("my-net", "wrn16_1")
    assert split_pair("wrn16_1-my-net", sources) == ("wrn16_1", "my-net")
    assert split_pair("my-net-timm/resnet50.a1_in1k", sources) == (
        "my-net",
        "timm/resnet50.a1_in1k",
    )
    sources = dict.fromkeys(("a", "a-b", "b-c", "c"), ModelSource(MODELS["wrn10_1"].make))
    with pytest.raises(ConfigError, match="may be a and b-c or a-b and c; name them with"):
        split_pair("a-b-c", sources)


def test_the_command_line_takes_a_tag_and_says_so():
    arguments = ["plan", "--attack", "badnets", "--toml", "--pair", "timm/resnet18.a1_in1k-wrn16_1"]
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 0, ran.output
    assert 'pairs = [["timm/resnet18", "wrn16_1"]]' in ran.stdout
    assert "timm/resnet18.a1_in1k is timm/resnet18 here: the tag" in ran.stderr


def test_list_refuses_and_tells_as_a_run_does():
    def listed(*arguments):
        return CliRunner().invoke(main, ["list", "models", *arguments])

    refused = listed("timm/deit_tiny_distilled_patch16_224", "--image-size", "64")
    assert refused.exit_code == 2
    assert "cannot be built" in refused.output
    told = listed("timm/edgenext_xx_small.in1k", "--image-size", "224", "--json")
    assert told.exit_code == 0, told.output
    assert "timm/edgenext_xx_small here: the tag" in told.stderr
    assert "what makes little sense in these groups" in told.stdout
