"""The commented file that ``ttq-energy targets new`` writes."""

TEMPLATE = """\
# A target of your own. Keys and ranges: profiles/targets/schema.json; meaning: docs/targets.md.
# A figure is a number, or {value, low, high, source, assumption}, or {operation: NAME} from the
# published 45 nm and 7 nm tables carried to this node: int8_mul, int16_mul, int32_mul, fp16_mul,
# fp32_mul, int8_add, int16_add, int32_add, fp16_add, fp32_add, sram_8KiB, sram_32KiB, sram_1MiB,
# dram_ddr (memories: per 64-bit access). Energies are in pJ, times in s, sizes in bytes.
name: my-chip
title: My accelerator
description: One sentence on what it is.
reference: Where it is described
technology:
  node_nm: 22            # operations are carried here class by class, with a wider range
  voltage_v: 0.8         # optional: scales operations by its square
clock_hz: {value: 500.0e6, low: 400.0e6, high: 600.0e6, source: "design goal", assumption: true}
array:
  dataflow: weight-stationary   # or output-stationary, row-stationary (then also registers:)
  rows: 32               # weight-stationary: inputs of a sum; output-stationary: positions
  columns: 32            # filters
  cores: 1               # equal arrays that share a layer
modes:                   # a layer runs in the cheapest mode that is wide enough
  - name: int8
    weights: int         # float, int, ternary (adds only), binary
    weight_bits: 8
    activation_bits: 8
    accumulator_bits: 32
    macs_per_cycle: 1    # of one unit
    multiply_pj: {operation: int8_mul}
    add_pj: {operation: int32_add}
  - name: ternary        # delete this mode, and ternary weights run as int8
    weights: ternary
    weight_bits: 2
    activation_bits: 8
    accumulator_bits: 32
    macs_per_cycle: 1
    add_pj: {operation: int32_add}
    scale_pj: {operation: int32_mul}     # Wp and Wn at each output
zeros:
  weight: gate           # none; gate: saves energy; skip: saves cycles too
  activation: none
  # imbalance: {value: 1.2, source: "..."}   # with skip: the fullest unit over the average one
levels:
  - name: registers
    role: register
    access_bits: 8
    accesses_per_mac: {weight: 1, input: 1, output: 0}
    read_pj: {value: 0.03, low: 0.01, high: 0.1, source: "my library", assumption: true}
  - name: buffer
    role: buffer         # holds: [input, output] if weights do not pass through it
    size_bytes: 262144
    access_bits: 64
    read_pj: {operation: sram_32KiB}
    bandwidth_bytes_per_s: {value: 64.0e9, source: "128 bytes a cycle"}
  - name: dram           # leave it out if everything stays on the chip
    role: dram
    access_bits: 64
    read_pj: {operation: dram_ddr}
    bandwidth_bytes_per_s: {value: 12.8e9, source: "one channel"}
formats:                 # how weights may be stored: 2bit, trits5, bitmap, run-length, csr
  - scheme: 2bit
    expanded_in: array   # packed in every level; dram: packed in DRAM alone
    decode_pj: {value: 0.005, low: 0.0, high: 0.02, source: "two gates", assumption: true}
activations:
  stay_on_chip: true     # between layers, where they fit in the buffer
static_w: {value: 0.02, low: 0.01, high: 0.04, source: "clock and leakage", assumption: true}
"""
