"""The section `runtime` of the configuration: how it runs, and nothing that changes results."""

from typing import Annotated, Literal

from pydantic import Field

from neuropictor.config_types import Count, Positive, Section


class RuntimeConfig(Section):
    """How it runs; nothing here changes results, so nothing here makes a stage run again."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto takes a GPU where there is one")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="arithmetic of frozen networks and of training (it does change the last digits); bf16 pays on GPUs"
        " and on CPUs with instructions for it; fp16: sampling only, for GPUs without bf16",
    )
    threads: Annotated[int, Field(ge=0)] = Field(
        8, description="most CPU cores that one job takes (it gets fewer where --cores gives fewer)"
    )
    workers: Annotated[int, Field(ge=0)] = Field(
        0, description="processes that load data; 0: none besides the main one"
    )
    accumulation: Count = Field(
        1,
        description="parts in which a training step's batch is computed, one after the other: less memory, same step"
        " (last digits and draws of dropout differ)",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="training computes activations again instead of keeping them: less memory, about a third more time,"
        " same gradients",
    )
    compile: bool = Field(
        False,
        description="sampling compiles ControlNet and UNet first, on CUDA with graphs: minutes at the start of a job,"
        " then faster steps; needs a C++ compiler",
    )
    decode_memory: Positive = Field(
        8.0,
        description="GiB for decoding pictures, which decides how many are decoded at a time; one that does not fit is"
        " decoded in tiles, whose colours may differ a little",
    )
    gpus: Annotated[int, Field(ge=0)] = Field(
        0, description="GPUs that a training or sampling job reserves with Snakemake and on a cluster"
    )
    checkpoint_interval: Count = Field(200, description="training steps between two checkpoints")
    log_interval: Count = Field(20, description="training steps between two entries in history.csv")
    track_code: bool = Field(True, description="run a stage again when its code has changed")
