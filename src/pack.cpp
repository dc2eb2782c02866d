#include <algorithm>

#include "operators.h"
#include "parallel.h"

namespace ttq {
namespace {

// Bit t of the result says that byte t of `word` (codes -1, 0, 1 as bytes) satisfies the test:
// for -1 its highest bit is set, for 1 its lowest but not its highest.
uint8_t pack_four(uint32_t word) {
  const uint32_t negative = word >> 7 & 0x01010101u;
  const uint32_t positive = word & ~negative & 0x01010101u;
  const uint32_t both = positive | negative << 4;
  // Gathers bits 0, 8, 16, 24 (and 4, 12, 20, 28) into one byte.
  return static_cast<uint8_t>(both | both >> 7 | both >> 14 | both >> 21);
}

uint32_t four_codes(const int8_t* codes, int64_t count) {
  uint32_t word = 0;
  for (int64_t t = 0; t < count; t++)
    word |= static_cast<uint32_t>(static_cast<uint8_t>(codes[t])) << (8 * t);
  return word;
}

}  // namespace

void pack(const int8_t* codes, int64_t rows, int64_t columns, uint8_t* packed, int threads) {
  const int64_t depth = (columns + 3) / 4;
  const int64_t panels = (rows + kPanelRows - 1) / kPanelRows;
  parallel_for(panels, threads, [&](int64_t panel) {
    const int64_t first = panel * kPanelRows;
    const int64_t width = std::min<int64_t>(kPanelRows, rows - first);
    uint8_t* out = packed + first * depth;
    for (int64_t r = 0; r < width; r++) {
      const int8_t* row = codes + (first + r) * columns;
      for (int64_t g = 0; g < depth; g++)
        out[g * width + r] = pack_four(four_codes(row + 4 * g, std::min<int64_t>(4, columns - 4 * g)));
    }
  });
}

}  // namespace ttq
