"""Static estimates of the kernels' inner loops on processors that need not be here.

    python benchmarks/kernel_throughput.py               # needs g++ and llvm-mca 16 or newer
    python benchmarks/kernel_throughput.py --mca llvm-mca-19 --json throughput.json

NOT a measurement. Each marked loop of src/panel_*.h and src/tile_*.h is compiled as CMakeLists.txt
compiles it and analysed twice, in weight codes a cycle:

- llvm-mca: its simulation of the loop on LLVM's model of the processor, all data in the
  first-level cache. The models have errors of their own: LLVM 16 gives Zen 4 half of the fused
  multiply-add throughput that it has, and less than half of vpdpbusd's.
- ports: a bound from counts alone, as if every operation could go to every port. Vector operations
  other than loads, stores and moves that a cycle can start: four of 256 bits on Zen 3, two of 512
  on Zen 4, three of 256 or two of 512 on Ice Lake and Sapphire Rapids; among them multiply-adds,
  float or byte: two, on Zen 4 one of 512 bits. Vector loads: two a cycle, on Zen 4 one of 512 bits.

Neither knows of caches, memory or calls; benchmarks/kernels.py measures.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMMON = "-std=c++17 -O3 -DNDEBUG -ffp-contract=off -fno-math-errno -fno-trapping-math -w"
AVX512 = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512"
# Source, its flags, and the processors to ask for: llvm-mca's name; vector operations,
# multiply-adds and loads a cycle.
BUILDS = (
    ("isa_avx2", "-mavx2 -mfma", (("znver3", 4, 2, 2), ("icelake-server", 3, 2, 2))),
    (
        "isa_avx512",
        f"{AVX512} -mavx512vbmi -mavx512vnni",
        (("znver4", 2, 1, 1), ("icelake-server", 2, 2, 2), ("sapphirerapids", 2, 2, 2)),
    ),
)
# Weight codes that one pass through a loop handles, for each input row (tiles: output pixel, of
# which the largest tile is shown).
CODES = {
    ("isa_avx2", "nibbles-int8"): 8 * 256,
    ("isa_avx2", "nibbles-fp32"): 128,
    ("isa_avx2", "nibbles-fixed"): 4 * 4 * 32,
    ("isa_avx2", "tile-fp32"): 16,
    ("isa_avx2", "tile-int8"): 4 * 8,
    ("isa_avx512", "tile-fp32"): 16,
    ("isa_avx512", "tile-int8"): 4 * 16,
    ("isa_avx512", "nibbles-int8"): 256,
    ("isa_avx512", "nibbles-fp32"): 256,
    ("isa_avx512", "triples-fp32"): 18 * 64,
    ("isa_avx512", "sextets-int8"): 3 * 12 * 64,
}
LOAD = re.compile(r"v\S+\s.*\).*,")  # a memory operand that is not the last
MULTIPLY_ADDS = re.compile(r"v(fn?m|pmadd|pdp)")
MOVES = re.compile(r"v(mov|broadcast|pbroadcast)")


@dataclass(frozen=True)
class Estimate:
    """One loop on one processor."""

    loop: str
    input_rows: int
    processor: str
    codes: int
    vector_operations: int
    loads: int
    ports_codes_per_cycle: float
    mca_codes_per_cycle: float


def assembly(source: str, flags: str, compiler: str) -> str:
    """The source's assembly with marked loops."""
    command = [compiler, *COMMON.split(), *flags.split(), "-DTTQ_MARK_LOOPS", "-S", "-o", "-"]
    path = str(ROOT / "src" / f"{source}.cpp")
    return subprocess.run([*command, path], check=True, capture_output=True, text=True).stdout


def regions(mca: str, processor: str, text: str) -> list[dict[str, Any]]:
    """llvm-mca's analysis of each marked loop."""
    with tempfile.NamedTemporaryFile("w", suffix=".s") as file:
        file.write(text)
        file.flush()
        command = [mca, f"-mcpu={processor}", "-iterations=200", "-json", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{mca} -mcpu={processor}: {done.stderr.strip().splitlines()[0]}")
    found: list[dict[str, Any]] = json.loads(done.stdout)["CodeRegions"]
    return found


def estimates(mca: str, compiler: str) -> list[Estimate]:
    """All loops on all processors; of a loop compiled twice, the better copy."""
    rows: dict[tuple[str, int, str], Estimate] = {}
    for source, flags, processors in BUILDS:
        text = assembly(source, flags, compiler)
        largest: dict[str, int] = {}
        for loop, inputs in re.findall(r"LLVM-MCA-BEGIN (\S+)-(\d+)", text):
            largest[loop] = max(largest.get(loop, 0), int(inputs))
        for processor, *started in processors:
            for region in regions(mca, processor, text):
                loop, _, inputs = region["Name"].rpartition("-")
                if loop.startswith("tile-") and int(inputs) != largest[loop]:
                    continue
                codes = CODES[source, loop] * int(inputs)
                summary = region["SummaryView"]
                cycles = summary["TotalCycles"] / summary["Iterations"]
                operations = sum(
                    line.startswith("v") and not MOVES.match(line)
                    for line in region["Instructions"]
                )
                loads = sum(bool(LOAD.match(line)) for line in region["Instructions"])
                multiply_adds = sum(
                    bool(MULTIPLY_ADDS.match(line)) for line in region["Instructions"]
                )
                counts = (operations, multiply_adds, loads)
                bound = max(
                    count / per_cycle for count, per_cycle in zip(counts, started, strict=True)
                )
                row = Estimate(
                    f"{source.removeprefix('isa_')} {loop}",
                    int(inputs),
                    processor,
                    codes,
                    operations,
                    loads,
                    codes / bound,
                    codes / cycles,
                )
                key = row.loop, row.input_rows, row.processor
                if key not in rows or row.mca_codes_per_cycle > rows[key].mca_codes_per_cycle:
                    rows[key] = row
    return sorted(rows.values(), key=lambda row: (row.loop, row.processor, row.input_rows))


def main() -> None:
    """Print the table, write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    names = ["llvm-mca", *(f"llvm-mca-{version}" for version in range(22, 15, -1))]
    parser.add_argument(
        "--mca", default=next((n for n in reversed(names) if shutil.which(n)), None)
    )
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--json", type=Path, help="also write the estimates to this file")
    arguments = parser.parse_args()
    if not arguments.mca or not shutil.which(arguments.compiler):
        sys.exit("needs g++ and llvm-mca 16 or newer (Debian: llvm-16)")
    rows = estimates(arguments.mca, arguments.compiler)
    print("STATIC ESTIMATES, not measurements: weight codes a cycle")
    columns = "{:22} {:>4} {:15} {:>10} {:>5} {:>6} {:>6}"
    print(columns.format("loop", "rows", "processor", "vector ops", "loads", "ports", "mca"))
    for row in rows:
        ports, mca = f"{row.ports_codes_per_cycle:.1f}", f"{row.mca_codes_per_cycle:.1f}"
        counts = row.vector_operations, row.loads
        print(columns.format(row.loop, row.input_rows, row.processor, *counts, ports, mca))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
