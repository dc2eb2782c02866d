// Convolutions of int8 activations by lookup (TableTile): a third faster than multiplying bytes
// where 16 outputs and some taps share each table.
#pragma once

#include <cstdint>
#include <vector>

#include "operators.h"
#include "windows.h"

namespace ttq {

class LookupConvolution {
 public:
  // Sources as of a Convolution of int8 activations, which are images of `strides` and `rows` rows.
  LookupConvolution(const Kernels& kernels, const Conv2dShape& shape, SourceStrides strides,
                    int64_t rows);

  // Whether this is expected to be faster than a byte tile of the set.
  bool worthwhile() const;

  // Output rows that one call of band() had best take: their tables stay in the near caches.
  int64_t band_rows() const;

  // Fill `tables` (band_bytes()) for the output rows from `row` on, `rows` of them.
  int64_t band_bytes(int64_t rows) const;
  void make_tables(const int8_t* source, int64_t row, int64_t rows, uint8_t* tables) const;

  // Codes of 16 outputs, `rows` of them in use, in the order in which they are looked up.
  int64_t code_bytes() const { return 2 * kTableOutputs * static_cast<int64_t>(offsets_.size()); }
  void order_codes(const Weights& weights, int64_t first, int rows, uint8_t* codes) const;

  // Sums of an output row: [row_pixels()][2][16], those of the pixels past the width undefined.
  int64_t row_pixels() const;
  int64_t parts() const { return static_cast<int64_t>(parts_.size()) - 1; }
  void row_sums(int64_t part, const uint8_t* tables, int64_t row_in_band, const uint8_t* codes,
                int32_t* sums) const;

 private:
  int64_t input_rows(int64_t rows) const;

  const Kernels& kernels_;
  Conv2dShape shape_;
  SourceStrides strides_;
  int64_t source_rows_, source_columns_, quads_;
  int64_t phase_columns_;            // table positions of each phase of the stride
  int64_t digit_stride_, row_bytes_;
  std::vector<int32_t> offsets_;     // of each lookup's tables from the first tap's
  std::vector<int32_t> places_;      // of its codes: byte columns of the packed matrix
  std::vector<int64_t> parts_;       // lookups that one tile does begin here
};

}  // namespace ttq
