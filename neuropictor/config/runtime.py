"""The section `runtime` of the configuration: how it runs; of results it changes last digits at most."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from neuropictor.config.types import Count, Machines, Positive, Section, Size


class RuntimeConfig(Section):
    """How it runs; nothing here changes more than last digits, so nothing makes a stage run again."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="auto takes a GPU where there is one"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32",
        description="arithmetic of frozen networks and of training (it does change the last digits); bf16 pays on GPUs"
        " and on CPUs with instructions for it; fp16: sampling only, for GPUs without bf16. On GPUs fp32 is without"
        " TF32; with the others what is left in float32 may use it",
    )
    deterministic: bool = Field(
        default=False,
        description="the same bytes each time on the same type of GPU, by slower algorithms; on CPUs always",
    )
    threads: Annotated[int, Field(ge=0, le=4096)] = Field(
        default=8, description="most CPU cores for one job (fewer if --cores is fewer)"
    )
    workers: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="processes that load data; 0: none besides the main one"
    )
    accumulation: Size = Field(
        default=1,
        description="parts in which a training step's batch is computed, one after the other: less memory, same step"
        " (last digits and draws of dropout differ)",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="training computes activations again instead of keeping them: less memory, about a third more time,"
        " same gradients",
    )
    compile: bool = Field(
        default=False,
        description="sampling compiles ControlNet and UNet first, on CUDA with graphs: minutes at the start of a job,"
        " then faster steps; needs a C++ compiler",
    )
    decode_memory: Positive = Field(
        default=8.0,
        description="GiB for decoding images, which decides how many are decoded at a time; one that does not fit is"
        " decoded in tiles, whose colours may differ a little",
    )
    gpus: Annotated[int, Field(ge=0, le=4096)] = Field(
        default=0,
        description="GPUs that a training or sampling job reserves with Snakemake and on a cluster; others reserve one",
    )
    processes: Machines = Field(
        default=1,
        description="processes that train together, each with its share of every batch and a GPU of its own if any, and"
        " over which sampling spreads its batches",
    )
    nodes: Machines = Field(default=1, description="machines for the processes; more than one only with Slurm")
    checkpoint_interval: Count = Field(default=200, description="training steps between two checkpoints")
    log_interval: Count = Field(default=20, description="training steps between two entries in history.csv")
    tensorboard: bool = Field(
        default=True,
        description="write losses and, at each validation, sample images for TensorBoard beside the output",
    )
    track_code: bool = Field(default=True, description="run a stage again when its code has changed")

    @model_validator(mode="after")
    def _check_processes(self) -> "RuntimeConfig":
        if self.processes % self.nodes:
            raise ValueError(
                f"processes is {self.processes}, which cannot be spread evenly over {self.nodes} nodes; allowed: a"
                f" multiple, e.g. processes: {self.nodes * max(1, self.processes // self.nodes)}"
            )
        if self.processes > 1 and self.gpus not in {0, self.processes}:
            raise ValueError(
                f"processes is {self.processes} and gpus is {self.gpus}, but each process takes one GPU; allowed: as"
                f" many, e.g. gpus: {self.processes}, or gpus: 0 on CPUs"
            )
        return self
