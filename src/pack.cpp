#include <algorithm>
#include <cstring>

#include "layout.h"
#include "operators.h"
#include "parallel.h"

namespace ttq {
namespace {

constexpr uint64_t kOnes = 0x0101010101010101u;

// For codes -1, 0, 1 as bytes: 1 where a code is -1 (its highest bit is set), where it is 1.
uint64_t negatives(uint64_t codes) { return codes >> 7 & kOnes; }
uint64_t positives(uint64_t codes) { return codes & ~negatives(codes) & kOnes; }

uint64_t load_eight(const int8_t* codes) {
  uint64_t word;
  std::memcpy(&word, codes, sizeof word);
  return word;
}

// Bit i of the result is bit 0 of byte i: the multiplier moves bit 8 i to bit 56 + i.
unsigned gather_bits(uint64_t bytes) {
  return static_cast<unsigned>(bytes * 0x0102040810204080u >> 56);
}

uint8_t pack_four(uint64_t codes) {
  return static_cast<uint8_t>((gather_bits(positives(codes)) & 15) |
                              (gather_bits(negatives(codes)) & 15) << 4);
}

void pack_nibbles(const int8_t* row, int64_t depth, int64_t width, uint8_t* out) {
  for (int64_t g = 0; g < depth; g++) out[g * width] = pack_four(load_eight(row + 4 * g));
}

void unpack_nibbles(const uint8_t* packed, int64_t depth, int64_t width, int8_t* row) {
  for (int64_t g = 0; g < depth; g++)
    for (int t = 0; t < 4; t++)
      row[4 * g + t] = static_cast<int8_t>((packed[g * width] >> t & 1) -
                                           (packed[g * width] >> (4 + t) & 1));
}

constexpr int kTripleShifts[6] = {0, 5, 10, 16, 21, 26};

void pack_triples(const int8_t* row, int64_t groups, uint8_t* out) {
  for (int64_t g = 0; g < groups; g++) {
    uint32_t word = 0;
    for (int f = 0; f < 6; f++) {
      const uint64_t codes = load_eight(row + kTripleColumns * g + 3 * f);
      const uint64_t digits = ((codes & kOnes) + negatives(codes)) & 0xffffffu;
      // Byte 2 of the product is digit 0 + 3 * digit 1 + 9 * digit 2.
      word |= static_cast<uint32_t>(digits * 0x010309u >> 16 & 31) << kTripleShifts[f];
    }
    std::memcpy(out + g * kTripleBytes, &word, sizeof word);
  }
}

void unpack_triples(const uint8_t* packed, int64_t groups, int8_t* row) {
  for (int64_t g = 0; g < groups; g++) {
    uint32_t word;
    std::memcpy(&word, packed + g * kTripleBytes, sizeof word);
    for (int f = 0; f < 6; f++) {
      unsigned number = word >> kTripleShifts[f] & 31;
      for (int i = 0; i < 3; i++, number /= 3)
        row[kTripleColumns * g + 3 * f + i] = static_cast<int8_t>("\0\1\377"[number % 3]);
    }
  }
}

void pack_sextets(const int8_t* row, int64_t groups, uint8_t* out) {
  for (int64_t g = 0; g < groups; g++) {
    const uint64_t first = load_eight(row + kSextetColumns * g);
    const uint64_t second = load_eight(row + kSextetColumns * g + 6);
    const unsigned sets[3] = {gather_bits(positives(first)), gather_bits(negatives(first)),
                              gather_bits(positives(second))};
    const unsigned fourth = gather_bits(negatives(second));
    for (int j = 0; j < 3; j++)
      out[g * kSextetBytes + j * kPanelRows] =
          static_cast<uint8_t>((sets[j] & 63) | (fourth >> (2 * j) & 3) << 6);
  }
}

void unpack_sextets(const uint8_t* packed, int64_t groups, int8_t* row) {
  for (int64_t g = 0; g < groups; g++) {
    unsigned sets[4] = {};
    for (int j = 0; j < 3; j++) {
      const unsigned byte = packed[g * kSextetBytes + j * kPanelRows];
      sets[j] = byte & 63;
      sets[3] |= byte >> 6 << (2 * j);
    }
    for (int t = 0; t < kSextetColumns; t++)
      row[kSextetColumns * g + t] = static_cast<int8_t>((sets[t / 6 * 2] >> t % 6 & 1) -
                                                        (sets[t / 6 * 2 + 1] >> t % 6 & 1));
  }
}

int64_t columns_a_group(Layout layout) {
  return layout == Layout::kTriples   ? kTripleColumns
         : layout == Layout::kSextets ? kSextetColumns
                                      : 4;
}

int64_t panel_bytes(Layout layout, int64_t columns, int64_t width) {
  const int64_t groups = divide_up(columns, columns_a_group(layout));
  return layout == Layout::kTriples   ? groups * kTripleBytes
         : layout == Layout::kSextets ? groups * kSextetBytes
                                      : groups * width;
}

// More than nibbles by at most a 32nd.
bool small_enough(int64_t bytes, int64_t rows, int64_t columns) {
  const int64_t nibbles = packed_bytes(Layout::kNibbles, rows, columns);
  return bytes <= nibbles + nibbles / 32;
}

struct Panel {
  Layout layout;
  int64_t first, width;  // rows
  int64_t groups;
  int64_t begin, bytes;  // where it lies

  int64_t place(int row) const {
    return layout == Layout::kTriples ? 4 * row : layout == Layout::kSextets ? sextet_place(row) : row;
  }
};

// Calls body(panel) for every panel of a matrix.
template <class Body>
void for_panels(Layout layout, int64_t rows, int64_t columns, int threads, const Body& body) {
  const int64_t wide = wide_panels(layout, rows, columns);
  const int64_t full_bytes = panel_bytes(layout, columns, kPanelRows);
  parallel_for(divide_up(rows, kPanelRows), threads, [&](int64_t p) {
    const Layout own = p < wide ? layout : Layout::kNibbles;
    const int64_t first = p * kPanelRows, width = std::min<int64_t>(kPanelRows, rows - first);
    body(Panel{own, first, width, divide_up(columns, columns_a_group(own)), p * full_bytes,
               panel_bytes(own, columns, width)});
  });
}

}  // namespace

int64_t wide_panels(Layout layout, int64_t rows, int64_t columns) {
  if (layout == Layout::kNibbles) return 0;
  const int64_t all = divide_up(rows, kPanelRows);
  const int64_t filled = all * panel_bytes(layout, columns, kPanelRows) + kLayoutSlack;
  return small_enough(filled, rows, columns) ? all : rows / kPanelRows;
}

int64_t packed_bytes(Layout layout, int64_t rows, int64_t columns) {
  if (layout == Layout::kNibbles) return rows * divide_up(columns, 4);
  const int64_t wide = wide_panels(layout, rows, columns);
  const int64_t rest = std::max<int64_t>(0, rows - wide * kPanelRows);
  return wide * panel_bytes(layout, columns, kPanelRows) + rest * divide_up(columns, 4) +
         kLayoutSlack;
}

Layout layout_of(int64_t bytes, int64_t rows, int64_t columns) {
  for (Layout layout : {Layout::kTriples, Layout::kSextets})
    if (wide_panels(layout, rows, columns) && bytes == packed_bytes(layout, rows, columns) &&
        bytes != packed_bytes(Layout::kNibbles, rows, columns))
      return layout;
  return Layout::kNibbles;
}

Layout best_layout(const Kernels& kernels, int64_t rows, int64_t columns, bool quantized) {
  const Layout layout = quantized ? (kernels.sextet_sums ? Layout::kSextets : Layout::kNibbles)
                                  : (kernels.triple_sums ? Layout::kTriples : Layout::kNibbles);
  const int64_t bytes = packed_bytes(layout, rows, columns);
  return small_enough(bytes, rows, columns) && layout_of(bytes, rows, columns) == layout
             ? layout
             : Layout::kNibbles;
}

namespace {

// Estimated cycles of one pixel and one group of columns on Zen 4 (benchmarks/kernel_throughput.py):
// looking up a panel, building the tables, and what the other kernels of convolutions take for 64
// outputs: fused multiply-adds do 16 codes a cycle, tables of four channels (tile_table_x86.h) 48.
struct GroupCycles {
  double lookups, tables, otherwise;
};
constexpr GroupCycles kTripleCycles{26, 24, 72}, kSextetCycles{11, 18, 16};
constexpr double kClearly = 0.8;
// Fewer channels come from convolutions in groups, which the packing does not know: there panels
// would hold several groups' rows, of which one is used.
constexpr int64_t kLeastWideChannels = 48;

}  // namespace

WindowColumns window_columns(Layout layout, bool shared, const WindowShape& s) {
  const int64_t group = columns_a_group(layout), table = layout == Layout::kTriples ? 3 : 6;
  WindowColumns c;
  c.layout = layout;
  c.shared = shared;
  c.runs = shared ? s.height : 1;
  c.pixel_columns = shared ? round_up(s.channels, table) : s.channels;
  const int64_t run = c.pixel_columns * (shared ? s.width : s.height * s.width);
  c.run_columns = shared ? round_up(run, group) : run;
  return c;
}

namespace {

template <class Body>
void for_window_columns(const WindowShape& s, const Body& body) {
  for (Layout layout : {Layout::kTriples, Layout::kSextets})
    for (bool shared : {true, false})
      if (!shared || s.height * s.width > 1) body(window_columns(layout, shared, s));
}

bool pays(const WindowColumns& c, const WindowShape& s) {
  const GroupCycles cycles = c.layout == Layout::kTriples ? kTripleCycles : kSextetCycles;
  const double windows = c.shared ? static_cast<double>(s.height * s.width) : 1;
  const double panels = static_cast<double>(divide_up(s.rows, kPanelRows));
  const double wide = static_cast<double>(c.columns()) *
                      (panels * cycles.lookups + cycles.tables / windows);
  const double otherwise = static_cast<double>(s.channels * s.height * s.width) *
                       (static_cast<double>(s.rows) / kPanelRows * cycles.otherwise);
  return wide <= kClearly * otherwise;
}

}  // namespace

int64_t packed_bytes(const WindowColumns& c, const WindowShape& s) {
  return packed_bytes(c.layout, s.rows, c.layout == Layout::kNibbles ? s.nibble_columns : c.columns());
}

WindowColumns window_columns_of(int64_t bytes, const WindowShape& shape) {
  WindowColumns found;
  if (bytes == packed_bytes(found, shape)) return found;
  for_window_columns(shape, [&](const WindowColumns& c) {
    if (found.layout == Layout::kNibbles && packed_bytes(c, shape) == bytes) found = c;
  });
  return found;
}

WindowColumns best_window_columns(const Kernels& kernels, const WindowShape& shape,
                                  bool quantized) {
  WindowColumns best;
  const bool has = quantized ? kernels.sextet_sums != nullptr : kernels.triple_sums != nullptr;
  if (!has || shape.channels < kLeastWideChannels) return best;
  for_window_columns(shape, [&](const WindowColumns& c) {
    const int64_t bytes = packed_bytes(c, shape);
    const int64_t codes = shape.rows * shape.channels * shape.height * shape.width;
    const WindowColumns known = window_columns_of(bytes, shape);
    if (best.layout == Layout::kNibbles && (c.layout == Layout::kSextets) == quantized &&
        wide_panels(c.layout, shape.rows, c.columns()) * kPanelRows >= shape.rows &&
        100 * bytes <= 26 * codes && known.layout == c.layout && known.shared == c.shared &&
        pays(c, shape))
      best = c;
  });
  return best;
}

void pack(Layout layout, const int8_t* codes, int64_t rows, int64_t columns, uint8_t* packed,
          int threads) {
  for_panels(layout, rows, columns, threads, [&](const Panel& panel) {
    // A row's copy, with zeros after it that the last group and eight-byte loads may take.
    const int64_t padded = panel.groups * columns_a_group(panel.layout) + 8;
    int8_t* row = scratch_array<int8_t>(Scratch::kPanel, padded);
    std::fill(row + columns, row + padded, int8_t{0});
    uint8_t* out = packed + panel.begin;
    if (panel.width < kPanelRows) std::memset(out, 0, panel.bytes);
    for (int r = 0; r < panel.width; r++) {
      std::memcpy(row, codes + (panel.first + r) * columns, columns);
      if (panel.layout == Layout::kTriples)
        pack_triples(row, panel.groups, out + panel.place(r));
      else if (panel.layout == Layout::kSextets)
        pack_sextets(row, panel.groups, out + panel.place(r));
      else
        pack_nibbles(row, panel.groups, panel.width, out + panel.place(r));
    }
  });
  if (layout != Layout::kNibbles)
    std::memset(packed + packed_bytes(layout, rows, columns) - kLayoutSlack, 0, kLayoutSlack);
}

void unpack(Layout layout, const uint8_t* packed, int64_t rows, int64_t columns, int8_t* codes,
            int threads) {
  for_panels(layout, rows, columns, threads, [&](const Panel& panel) {
    int8_t* row =
        scratch_array<int8_t>(Scratch::kPanel, panel.groups * columns_a_group(panel.layout));
    for (int r = 0; r < panel.width; r++) {
      const uint8_t* in = packed + panel.begin + panel.place(r);
      if (panel.layout == Layout::kTriples)
        unpack_triples(in, panel.groups, row);
      else if (panel.layout == Layout::kSextets)
        unpack_sextets(in, panel.groups, row);
      else
        unpack_nibbles(in, panel.groups, panel.width, row);
      std::memcpy(codes + (panel.first + r) * columns, row, columns);
    }
  });
}

ReadableWeights::ReadableWeights(const Kernels& kernels, const Weights& weights,
                                 const Conv2dShape& shape, int threads)
    : weights_(weights) {
  const bool read = weights.quantized ? weights.layout == Layout::kSextets && kernels.sextet_sums
                                      : weights.layout == Layout::kTriples && kernels.triple_sums;
  if (weights.layout == Layout::kNibbles || read) return;
  const WindowColumns& from = weights.window;
  const int64_t channels = shape.channels / shape.groups, rows = weights.rows;
  const int64_t taps = shape.kernel_height * shape.kernel_width, columns = weights.columns;
  std::vector<int8_t> wide(rows * from.columns()), codes(rows * columns);
  unpack(from.layout, weights.codes, rows, from.columns(), wide.data(), threads);
  for (int64_t row = 0; row < rows; row++)
    for (int64_t tap = 0; tap < taps; tap++) {
      const int64_t run = from.shared ? tap / shape.kernel_width : 0;
      const int64_t place = run * from.run_columns +
                            (tap - run * shape.kernel_width) * from.pixel_columns;
      for (int64_t c = 0; c < channels; c++)
        codes[row * columns + (shape.shared_tables ? (c / 4 * taps + tap) * 4 + c % 4
                                                   : c * taps + tap)] =
            wide[row * from.columns() + place + c];
    }
  copy_.resize(packed_bytes(Layout::kNibbles, rows, columns));
  pack(Layout::kNibbles, codes.data(), rows, columns, copy_.data(), threads);
  weights_.codes = copy_.data();
  weights_.layout = Layout::kNibbles;
  weights_.window = {};
}

}  // namespace ttq
