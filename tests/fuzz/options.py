"""Options of a request."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.fuzz.values import numbers, often, words

ATTACKS = ("badnets", "lba", "ckd", "htba", "badnets.sham", "badnet", "none", "all", "fkd")
DEFENSES = ("none", "robustkd", "anp", "nad", "fineprune", "finetune", "robustkd.zero", "all", "kd")
DISTILLERS = ("fkd", "kd", "at", "fkd.weak", "all", "none")
PAIRS = (
    *("wrn10_1-wrn10_1", "wrn16_2-wrn10_1", "all", "wrn10_1", "wrn10_1-", "-wrn10_1", "-"),
    *("timm/resnet18-wrn10_1", "torchvision/resnet18-wrn10_1", "wrn7_1-wrn10_1"),
    *("resnet8-wrn10_1", "wrn10_0-wrn10_1", "wrn10_99999-wrn10_1", "resnet99999998-wrn10_1"),
)
MODELS = (
    *("wrn10_1", "resnet8", "resnet20", "wrn0_1", "wrn9999999999_1", "pyramid20", "pyramid200"),
    *("timm/resnet10t", "timm/resnet18.a1_in1k", "timm/deit_tiny_distilled_patch16_224"),
    *("timm/vit_tiny_patch16_224", "timm/", "torchvision/resnet18", "torchvision/nothing", "timm"),
    *("timm/mobilenetv3_small_050", "torchvision/squeezenet1_0", "hf:a/b", "hf:", "hf:a/b@c"),
)
DATASETS = ("signs", "gtsrb", "cifar10", "flower17", "imagenet1k", "imagefolder", "imagefolder:")
KEYS = (
    *("clean.epochs", "distill.epochs", "poison.epochs", "distill.lr", "clean.batch_size"),
    *("attack.badnets.size", "attack.badnets.poison_rate", "distiller.fkd.alpha"),
    *("defense.robustkd.m_max", "defense.robustkd.m5.m_max", "repair.epochs", "clean", "a.b.c"),
)
_RIGHT: dict[str, st.SearchStrategy[str]] = {
    "--image-size": st.sampled_from(["8", "16", "17"]),
    "--num-classes": st.sampled_from(["3"]),
    # Of three classes one has two images then, and one image of it is held out.
    "--train-size": st.sampled_from(["4", "5", "6"]),
    "--test-size": st.sampled_from(["2"]),
    "--data-seed": st.sampled_from(["0", "1", "4294967295", "9223372036854775807"]),
    "--seed": st.sampled_from(["0", "1", "4294967296", "999999999999999999"]),
    "--seeds": st.sampled_from(["1", "2", "3"]),
    "--target-class": st.sampled_from(["0", "1", "2"]),
    "--clean-fraction": st.sampled_from(["1", "0.5", "1.0", "5e-1"]),
    "--unlabeled": st.sampled_from(["1", "0.5", "3e-1"]),
    "--threads": st.sampled_from(["1", "2"]),
    "--device": st.sampled_from(["cpu", "auto"]),
    "--numerics": st.sampled_from(["fp32", "auto"]),
    "--preset": st.sampled_from(["quick", "paper", "standard"]),
}
_HOSTILE: dict[str, st.SearchStrategy[str]] = {
    "--device": st.sampled_from(["cuda", "cuda:7", "meta", "mps", "cpu:1", "xla", "", "gpu", "CPU"])
}


def set_values() -> st.SearchStrategy[str]:
    """A value of ``--set``."""
    return st.one_of(
        st.sampled_from(["1", "2", "0.5", "[1, 2]", "{a = 1}", "true", "'x'", "1979-05-27", "[3"]),
        numbers(),
    )


@st.composite
def request(draw: st.DrawFn, hostile: bool) -> list[str]:
    """Options of a request, without a dataset."""

    # Most calls get past the names, so that something else of them is tried.
    odd = hostile and draw(st.integers(0, 3)) == 0

    def name(known: tuple[str, ...], right: int) -> str:
        if not odd:
            return draw(st.sampled_from(known[:right]))
        return draw(often(st.sampled_from(known), words(), 7))

    arguments = ["--attack", name(ATTACKS, 2), "--pair", name(PAIRS, 2)]
    for option, known in (("--defense", DEFENSES), ("--distiller", DISTILLERS)):
        if draw(st.booleans()):
            arguments += [option, name(known, 3)]
    for option in draw(st.lists(st.sampled_from(sorted(_RIGHT)), max_size=3, unique=True)):
        right = _RIGHT[option]
        wrong = st.one_of(numbers(), _HOSTILE.get(option, words()))
        arguments += [option, draw(often(right, wrong, 6) if hostile else right)]
    if draw(st.integers(0, 2)) == 0:
        key = draw(often(st.sampled_from(KEYS), words())) if hostile else "clean.epochs"
        value = draw(set_values()) if hostile else "2"
        arguments += ["--set", f"{key}={value}"]
    if hostile and draw(st.integers(0, 9)) == 0:
        arguments += [draw(st.sampled_from(["--download", "--no-controls", "--json", "--toml"]))]
    if hostile and draw(st.integers(0, 9)) == 0:
        # In the place of the pair.
        network = often(st.sampled_from(MODELS), words())
        first = draw(st.sampled_from(["--teacher", "--teacher", "--teacher-from"]))
        arguments[2:4] = [first, draw(network), "--student", draw(network)]
    return arguments
