"""One forward pass of encoder, networks and UNet at the paper's size, in bfloat16, with random weights.

    python benchmarks/full_size_forward.py

Proves that the parts fit each other in full size and that nothing on the way leaves bfloat16's range. The sizes are
those that the importer reads off the official key list (tests/golden/f_full_key_manifest.json). Not a comparison: see
`sampling.py` and `training.py` for those.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from paper_size import described_machine, peak_gib

HERE = Path(__file__).parent
MANIFEST = HERE.parent / "tests" / "golden" / "f_full_key_manifest.json"
RESULT = HERE / "results" / "full_size_forward.json"


def full_size() -> dict[str, torch.nn.Module]:
    """Make encoder, guiding and manipulation network and UNet from the key list; zero layers get small numbers."""
    from neuropictor.official.checkpoint import make_plan

    shapes = json.loads(MANIFEST.read_text())["keys"]
    plan = make_plan({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    parts = {}
    for name in ("encoder", "guiding", "manipulation", "unet"):
        kind, config = type(plan.parts[name]), plan.parts[name].config
        arguments = {key: value for key, value in config.items() if not key.startswith("_")}
        parts[name] = kind(**arguments).eval().requires_grad_(False)
        for parameter in parts[name].parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    torch.set_default_dtype(torch.float32)
    return parts


@torch.no_grad()
def forward(parts: dict[str, torch.nn.Module]) -> tuple[dict[str, float], dict[str, list[int]], torch.Tensor]:
    """Return seconds and shapes of each part's output, and what the UNet predicts."""
    seconds, shapes = {}, {}

    def timed(name, function, *args, **options):
        start = time.perf_counter()
        out = function(*args, **options)
        seconds[name] = round(time.perf_counter() - start, 2)
        return out

    random = torch.Generator().manual_seed(1)
    maps = torch.randn(1, 1, 256, 256, generator=random).bfloat16()
    latents = torch.randn(1, 4, 64, 64, generator=random).bfloat16()
    tokens = timed("encoder", parts["encoder"], maps)
    context, _ = timed("guiding", parts["guiding"], tokens)
    hint = timed("hint", parts["manipulation"].hint, tokens)
    skips, middle = timed("manipulation", parts["manipulation"], latents, 501, context, hint)
    predicted = timed(
        "unet",
        parts["unet"],
        latents,
        501,
        context,
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
    ).sample
    outputs = {"tokens": tokens, "context": context, "hint": hint, "middle": middle, "predicted": predicted}
    for name, value in outputs.items():
        assert value.dtype == torch.bfloat16, name
        assert torch.isfinite(value).all(), name
        shapes[name] = list(value.shape)
    shapes["skips"] = [list(skip.shape) for skip in skips]
    assert len(skips) == 12
    return seconds, shapes, predicted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    out = parser.parse_args().out
    parts = full_size()
    seconds, shapes, predicted = forward(parts)
    again = forward(parts)[2]
    assert torch.equal(predicted, again)
    count = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}
    result = {
        "what": "one bfloat16 forward pass at the paper's size, random weights",
        "machine": described_machine(torch.device("cpu")),
        "parameters": count,
        "shapes": shapes,
        "seconds": seconds,
        "peak_memory_gib": round(peak_gib(torch.device("cpu")), 2),
    }
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
