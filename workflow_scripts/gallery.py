"""Put all test pictures and reconstructions into a page to browse."""

from pathlib import Path

from neuropictor.records.log import start_log
from neuropictor.records.record import job_record

start_log(snakemake.log[0])

from neuropictor.data.reconstructions import by_subject
from neuropictor.report.gallery import gallery

with job_record(snakemake.rule, snakemake.log[0], snakemake.params.items(), snakemake.input, snakemake.output):
    gallery(
        samples=by_subject(map(Path, snakemake.input.samples)),
        stimuli=[Path(path) for path in snakemake.input.stimuli],
        scores=[Path(snakemake.input.scores)],
        out=Path(snakemake.output[0]),
        controls=by_subject(map(Path, snakemake.input.controls)),
    )
