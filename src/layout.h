// How packed codes lie in memory, apart from the nibbles of kernels.h that every set can read.
//
// The wide layouts serve panels of 64 rows. A last panel of fewer rows is filled up with zeros where
// that adds little to the whole; else its rows follow as nibbles. 64 unused bytes end the whole, so
// that the kernels may read past the last code.
//
// Triples (float32 activations), 18 columns a group: panel [group][64 rows] of 32-bit words, bits
// 0-4, 5-9, 10-14, 16-20, 21-25, 26-30 of which are six numbers below 27. The number c0 + 3 c1 +
// 9 c2 stands for three codes, c = 0, 1, 2 for code 0, +1, -1. 1.78 bits a code.
//
// Sextets (int8 activations), 12 columns a group: panel [group][3][64] bytes, holding for each row
// four sets of six columns, one bit a column: those among the first six columns with code +1, with
// code -1, the same for the last six. The first three are the low six bits of the three bytes, the
// fourth has its bits 0-1, 2-3, 4-5 in the top two of each. Row r of a panel is at byte
// sextet_place(r). 2 bits a code.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace ttq {

constexpr int kLayoutSlack = 64;

// The kernels widen even and odd bytes apart and interleave the halves of 128-bit lanes; at these
// places the sums come out in the order of rows.
inline int sextet_place(int row) {
  const int odd = row >> 5, half = row >> 4 & 1, lane = row >> 2 & 3, within = row & 3;
  return 2 * (8 * lane + 4 * half + within) + odd;
}

// Panels that lie as the layout says; any rows after them are nibbles.
int64_t wide_panels(Layout layout, int64_t rows, int64_t columns);

// Bytes of a matrix in this layout.
int64_t packed_bytes(Layout layout, int64_t rows, int64_t columns);

// The layout of a matrix that takes so many bytes: no two layouts in use give the same number.
Layout layout_of(int64_t bytes, int64_t rows, int64_t columns);

// The layout that these kernels like best for a linear layer: a wide one where it is no larger
// than nibbles by more than a 32nd (2.06 bits a code) and can be told from them by its length.
Layout best_layout(const Kernels& kernels, int64_t rows, int64_t columns, bool quantized);

// How the matrix of a convolution in a wide layout orders its columns: a run for each kernel row,
// in it pixel after pixel, in it channel after channel, zeros after either where they are filled up.
// Where a pixel's columns are whole table entries (`shared`), its tables serve all windows that it is
// in; else the window is one run without any filling, and has tables of its own.
struct WindowColumns {
  Layout layout = Layout::kNibbles;
  bool shared = false;
  int64_t runs = 0, run_columns = 0;
  int64_t pixel_columns = 0;  // the distance between a run's pixels

  int64_t columns() const { return runs * run_columns; }
};

// The shape of a convolution's weights, and the columns that it has as nibbles.
struct WindowShape {
  int64_t rows, channels, height, width, nibble_columns;
};

WindowColumns window_columns(Layout layout, bool shared, const WindowShape& shape);

// The layout of a convolution that takes so many bytes; again no two in use give the same number.
WindowColumns window_columns_of(int64_t bytes, const WindowShape& shape);

// The layout that these kernels like best: a wide one where its estimated time is clearly below that
// of the kernels of nibbles and it takes at most 2.08 bits a code.
WindowColumns best_window_columns(const Kernels& kernels, const WindowShape& shape, bool quantized);

int64_t packed_bytes(const WindowColumns& columns, const WindowShape& shape);

// Pack int8 codes (rows, columns) in {-1, 0, 1}, and back.
void pack(Layout layout, const int8_t* codes, int64_t rows, int64_t columns, uint8_t* packed,
          int threads);
void unpack(Layout layout, const uint8_t* packed, int64_t rows, int64_t columns, int8_t* codes,
            int threads);

}  // namespace ttq
