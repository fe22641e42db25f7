"""The texts of a bundle: its model card, and a program that loads it."""

from __future__ import annotations

import json

from momentum_core.architectures import named_input_shape
from momentum_core.bundle.configuration import BundleConfig
from momentum_core.bundle.details import BundleDetails


def model_card(config: BundleConfig, details: BundleDetails) -> str:
    """Return README.md, with the front matter that the Hugging Face hub reads."""
    plan = config.plan
    num_blocks = sum(len(run.blocks) for run in plan.runs)
    gammas = ", ".join(sorted({str(run.gamma) for run in plan.runs}))
    name = details.architecture or "a model of your own"
    sections = [
        "---\nlibrary_name: momentum-zoo\ntags:\n- momentum-resnet\n- reversible\n"
        "- memory-efficient-training\n---",
        f"# {name}, as a Momentum ResNet",
        f"The weights are the original's, under the original's names. {len(plan.runs)} "
        f"{'run' if len(plan.runs) == 1 else 'runs'} with {num_blocks} residual blocks follow the "
        f"momentum rule (gamma {gammas}) and are reversed exactly in the backward pass, so that "
        "training does not keep their activations.",
    ]
    if details.results:
        rows = "\n".join(f"| {what} | {value} |" for what, value in details.results.items())
        sections += ["## Results", f"| | |\n| --- | --- |\n{rows}"]
    sections += ["## Load", _how_to_load(details)]
    if details.preprocessing is not None:
        one = details.preprocessing
        sections.append(
            f"Input: `(pixel / 255 - mean) / std` with mean {list(one.mean)} and std "
            f"{list(one.std)}, channel by channel."
        )
    sections += ["## Conversion", _fenced(str(plan))]
    if details.source:
        source = json.dumps(dict(details.source), indent=2, default=str)
        sections += ["## Source", _fenced(source, "json")]
    versions = ", ".join(f"{library} {one}" for library, one in config.versions.items())
    sections += [
        f"Made with {versions}. `sha256sum --check SHA256SUMS` checks the files. Method: Sander et "
        "al. 2021, Momentum Residual Neural Networks (arXiv:2102.07870)."
    ]
    return "\n\n".join(sections) + "\n"


def load_example(config: BundleConfig) -> str:
    """Return load_example.py: a program that loads the folder it lies in and prints logits."""
    details = config.details
    imports, arguments, lines = "", "", []
    if details.architecture is None:
        imports = "import importlib\nimport sys\n"
        arguments = ", original=build()"
        lines += [
            "# The folder does not name its architecture: the argument says what builds a fresh",
            "# one, as `python load_example.py package.module:function`.",
            'module, _, function = sys.argv[1].partition(":")',
            "build = getattr(importlib.import_module(module), function)",
        ]
    lines += [
        f"model = momentum_core.load(Path(__file__).resolve().parent{arguments})",
        "print(model.plan)",
    ]
    shape = details.input_shape
    if shape is None and details.architecture is not None:
        shape = named_input_shape(details.architecture)
    if shape is None:
        lines.append("# Call it as the original model is called.")
    else:
        sizes = ", ".join(map(str, (1, *shape)))
        lines += [
            f"x = torch.randn({sizes}, generator=torch.Generator().manual_seed(0))",
            "with torch.no_grad():",
            "    print(model(x.to(next(model.parameters()).dtype)))",
        ]
    body = "\n".join(lines)
    return (
        '"""Load this momentum network and print its output for random numbers."""\n\n'
        f"{imports}from pathlib import Path\n\nimport torch\n\nimport momentum_core\n\n{body}\n"
    )


def _how_to_load(details: BundleDetails) -> str:
    original = "" if details.architecture else ", original=build_the_original_architecture()"
    return (
        f'```python\nimport momentum_core\n\nmodel = momentum_core.load("this folder"{original})\n'
        "model.train()  # trains without keeping the activations of its runs\n```"
    )


def _fenced(text: str, language: str = "") -> str:
    return f"```{language}\n{text.replace('`', chr(39))}\n```"
