#include "lookup_conv2d.h"

#include <algorithm>
#include <cstring>

namespace ttq {
namespace {

// Tables of a band: they and the codes share the second-level cache.
constexpr int64_t kBandBytes = 224 << 10;
// What the tables of a quad cost, in products of a byte tile. Measured on Zen 3.
constexpr double kTableCost = 90;

}  // namespace

LookupConvolution::LookupConvolution(const Kernels& kernels, const Conv2dShape& s,
                                     SourceStrides strides, int64_t rows)
    : kernels_(kernels),
      shape_(s),
      strides_(strides),
      source_rows_(rows),
      source_columns_(strides.row / strides.pixel),
      quads_(s.channels / 4),
      phase_columns_(divide_up(source_columns_, s.stride_width)),
      digit_stride_(phase_columns_ * s.stride_width * 16),
      row_bytes_(2 * digit_stride_ * quads_) {
  if (!worthwhile()) return;
  const int64_t taps = s.kernel_height * s.kernel_width;
  const int64_t at_once = std::max<int64_t>(1, kMostTableQuads / taps);
  offsets_.reserve(quads_ * taps);
  places_.reserve(quads_ * taps);
  parts_.push_back(0);
  for (int64_t first = 0; first < quads_; first += at_once) {
    const int64_t end = std::min(first + at_once, quads_);
    for (int64_t i = 0; i < s.kernel_height; i++)
      for (int64_t j = 0; j < s.kernel_width; j++) {
        const int64_t x = j * s.dilation_width;
        const int64_t column = x % s.stride_width * phase_columns_ + x / s.stride_width;
        for (int64_t q = first; q < end; q++) {
          offsets_.push_back(static_cast<int32_t>(i * s.dilation_height * row_bytes_ +
                                                  2 * q * digit_stride_ + 16 * column));
          places_.push_back(static_cast<int32_t>(q * taps + i * s.kernel_width + j));
        }
      }
    const int64_t begin = parts_.back(), count = static_cast<int64_t>(offsets_.size()) - begin;
    const int64_t pieces = divide_up(count, kMostTableQuads);
    for (int64_t p = 1; p <= pieces; p++) parts_.push_back(begin + count * p / pieces);
  }
}

bool LookupConvolution::worthwhile() const {
  const Conv2dShape& s = shape_;
  if (!kernels_.tile_table || s.groups != 1 || s.channels % 4) return false;
  // Reading tables takes the time where neighbours do not share them.
  if (s.kernel_width == 1) return false;
  if (s.dilation_height * s.kernel_height * row_bytes_ > INT32_MAX / 2) return false;
  const int64_t columns = s.channels * s.kernel_height * s.kernel_width;
  const double lookups = static_cast<double>(row_pixels() * s.out_height * columns) *
                         static_cast<double>(round_up(s.out_channels, kTableOutputs));
  const double products = static_cast<double>(s.out_width * s.out_height * columns) *
                          static_cast<double>(round_up(s.out_channels, kernels_.tile_width_byte));
  const auto tables = static_cast<double>(source_rows_ * source_columns_ * quads_);
  return lookups / kernels_.lookup_speed + kTableCost * tables < products;
}

int64_t LookupConvolution::row_pixels() const {
  return round_up(shape_.out_width, kernels_.table_lanes);
}

int64_t LookupConvolution::input_rows(int64_t rows) const {
  return (rows - 1) * shape_.stride_height + (shape_.kernel_height - 1) * shape_.dilation_height + 1;
}

int64_t LookupConvolution::band_rows() const {
  const int64_t more = (kBandBytes / row_bytes_ - input_rows(1)) / shape_.stride_height;
  return std::min(shape_.out_height, 1 + std::max<int64_t>(more, 1));
}

int64_t LookupConvolution::band_bytes(int64_t rows) const {
  // Vectors may reach past the last pixel.
  return input_rows(rows) * row_bytes_ + 16 * kernels_.table_pixels;
}

void LookupConvolution::make_tables(const int8_t* source, int64_t row, int64_t rows,
                                    uint8_t* tables) const {
  const int64_t step = shape_.stride_width, first = row * shape_.stride_height;
  for (int64_t y = 0; y < input_rows(rows); y++) {
    const int8_t* pixels = source + (first + y) * strides_.row;
    for (int64_t q = 0; q < quads_; q++) {
      uint8_t* low = tables + y * row_bytes_ + 2 * q * digit_stride_;
      for (int64_t phase = 0; phase < step; phase++)
        kernels_.make_tables(pixels + phase * strides_.pixel + 4 * q,
                             (source_columns_ - phase + step - 1) / step, step * strides_.pixel,
                             low + 16 * phase * phase_columns_,
                             low + 16 * phase * phase_columns_ + digit_stride_);
    }
  }
}

void LookupConvolution::order_codes(const Weights& w, int64_t first, int rows,
                                    uint8_t* codes) const {
  const int64_t nibbles = first / kPanelRows * kPanelRows;
  const int64_t stride = std::min<int64_t>(kPanelRows, w.rows - nibbles);
  const uint8_t* from = w.codes + nibbles * w.depth() + first % kPanelRows;
  const auto count = static_cast<int64_t>(places_.size());
  for (int64_t i = 0; i < count; i++, codes += 2 * kTableOutputs) {
    uint8_t bytes[kTableOutputs] = {};
    if (rows == kTableOutputs)
      std::memcpy(bytes, from + places_[i] * stride, kTableOutputs);
    else
      std::memcpy(bytes, from + places_[i] * stride, rows);
    uint8_t nibbles_of[2 * kTableOutputs];
    for (int r = 0; r < kTableOutputs; r++) {
      nibbles_of[r] = bytes[r] & 15;
      nibbles_of[kTableOutputs + r] = bytes[r] >> 4;
    }
    std::memcpy(codes, nibbles_of, sizeof nibbles_of);
  }
}

void LookupConvolution::row_sums(int64_t part, const uint8_t* tables, int64_t row_in_band,
                                 const uint8_t* codes, int32_t* sums) const {
  TableTile tile{};
  tile.offsets = offsets_.data() + parts_[part];
  tile.digit_stride = digit_stride_;
  tile.codes = codes + 2 * kTableOutputs * parts_[part];
  tile.quads = parts_[part + 1] - parts_[part];
  tile.first = part == 0;
  const uint8_t* row = tables + row_in_band * shape_.stride_height * row_bytes_;
  for (int64_t x = 0; x < shape_.out_width; x += tile.pixels) {
    tile.pixels = static_cast<int>(std::min<int64_t>(kernels_.table_pixels, shape_.out_width - x));
    tile.tables = row + 16 * x;
    tile.sums = sums + x * 2 * kTableOutputs;
    kernels_.tile_table(tile);
  }
}

}  // namespace ttq
