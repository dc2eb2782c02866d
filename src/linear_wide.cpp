#include "linear_wide.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "linear_rows.h"
#include "wide_sums.h"

namespace ttq {
namespace {

// Tables of all columns that a thread keeps for its next range of panels: they fit the second-level
// cache, from which a chunk comes again at less cost than building it.
constexpr int64_t kKeptBytes = 256 << 10;
// Scales whose ratio differs by less have the same: a few roundings of float32.
constexpr float kEqual = 5e-7f;

uint32_t bits(float value) {
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  return word;
}

template <class Form>
bool keeps_tables(int64_t groups, int inputs) {
  return groups * inputs * Form::kTableBytes <= kKeptBytes;
}

// A few input rows against a range of panels. Chunk of columns by chunk, so that its tables stay
// in the first-level cache, through which the codes of all panels stream.
template <class Form>
class Block {
 public:
  using Input = typename Form::Input;
  using Total = typename Form::Total;

  Block(const Kernels& kernels, const Weights& weights, const Input* x, int64_t input_stride,
        int inputs, int64_t panel_begin, int64_t panel_end, int64_t id)
      : kernels_(kernels),
        w_(weights),
        x_(x),
        input_stride_(input_stride),
        inputs_(inputs),
        begin_(panel_begin),
        end_(panel_end),
        id_(id),
        groups_(divide_up(weights.columns, Form::kColumns)) {}

  // Totals [panel][input][kPanelSums] of all columns, from tables with these scales.
  const Total* sum(float w_pos, float w_neg, Scratch use) {
    const int64_t chunk = Form::kChunks[inputs_ - 1];
    const bool keep = id_ && keeps_tables<Form>(groups_, inputs_);
    const int64_t stride = (keep ? groups_ : chunk) * Form::kTableBytes;
    char* scratch_tables = scratch_array<char>(Scratch::kTables, inputs_ * stride);
    static thread_local int64_t kept_tables = 0;  // whose tables this thread holds
    const int64_t wanted = 2 * id_ + (use == Scratch::kSums);
    const bool built = keep && kept_tables == wanted;
    kept_tables = keep ? wanted : 0;
    PanelSums<Form> sums(kernels_, w_.codes, groups_, inputs_, begin_, end_, use);
    for (int64_t g = 0; g < groups_; g += chunk) {
      const int64_t now = std::min(chunk, groups_ - g);
      char* tables = scratch_tables + (keep ? g * Form::kTableBytes : 0);
      for (int m = 0; m < inputs_ && !built; m++)
        build(m, g, now, w_pos, w_neg, tables + m * stride);
      sums.add(tables, stride, g, now);
    }
    return sums.totals();
  }

 private:
  // Tables of groups [first, first + count) of input m; columns past the last count as zeros.
  void build(int m, int64_t first, int64_t count, float w_pos, float w_neg, void* tables) const {
    const int64_t begin = first * Form::kColumns, width = count * Form::kColumns;
    const Input* x = x_ + m * input_stride_ + begin;
    Input padded[Form::kChunks[0] * Form::kColumns];
    if (begin + width > w_.columns) {
      std::copy_n(x, w_.columns - begin, padded);
      std::fill(padded + w_.columns - begin, padded + width, Input{0});
      x = padded;
    }
    Form::tables(kernels_, x, count, w_pos, w_neg, tables);
  }

  const Kernels& kernels_;
  const Weights& w_;
  const Input* x_;
  int64_t input_stride_;
  int inputs_;
  int64_t begin_, end_;
  int64_t id_;  // of these input rows, for no others ever; 0 where one range of panels is all
  int64_t groups_;
};

// Splits blocks of input rows and ranges of panels among the threads; calls
// body(first input row, inputs, panel begin, panel end, id of the block of input rows).
template <class Form, class Body>
void for_blocks(int64_t count, int64_t columns, int64_t panels, int threads, const Body& body) {
  static std::atomic<int64_t> next_id{1};
  const int64_t blocks = divide_up(count, Form::kInputs);
  const int64_t id = next_id.fetch_add(blocks);
  // Some more parts than threads, so that one that is held up does not hold up all; fewer where each
  // part must build its tables anew.
  const bool keep = keeps_tables<Form>(
      divide_up(columns, Form::kColumns), static_cast<int>(std::min<int64_t>(count, Form::kInputs)));
  const int64_t wanted = threads > 1 ? divide_up((keep ? 4 : 2) * threads, blocks) : 1;
  const int64_t parts = std::min(wanted, panels);
  parallel_for(blocks * parts, threads, [&](int64_t task) {
    const int64_t block = task / parts, part = task % parts, first = block * Form::kInputs;
    body(first, static_cast<int>(std::min<int64_t>(Form::kInputs, count - first)),
         panels * part / parts, panels * (part + 1) / parts, parts > 1 ? id + block : 0);
  });
}

void triples_linear(const Kernels& kernels, const Weights& w, const float* x, int64_t count,
                    const float* residual, float* y, int threads) {
  const int64_t panels = wide_panels(w.layout, w.rows, w.columns);
  const TableScales scales(w);
  for_blocks<Triples>(count, w.columns, panels, threads, [&](int64_t first, int inputs, int64_t begin,
                                                  int64_t end, int64_t id) {
    Block<Triples> block(kernels, w, x + first * w.columns, w.columns, inputs, begin, end, id);
    const double* pos = block.sum(scales.w_pos, scales.w_neg, Scratch::kTotals);
    const double* neg = scales.folded ? nullptr : block.sum(0, 1, Scratch::kSums);
    for (int64_t p = begin; p < end; p++)
      for (int m = 0; m < inputs; m++) {
        const int64_t at = ((p - begin) * inputs + m) * kPanelRows, row = p * kPanelRows;
        const int64_t place = (first + m) * w.rows + row;
        const int64_t width = std::min<int64_t>(kPanelRows, w.rows - row);
        float values[kPanelRows];
        scales.apply(w, row, width, pos + at, neg ? neg + at : nullptr, values);
        finish_rows(values, w, row, width, residual ? residual + place : nullptr, y + place);
      }
  });
}

void sextets_linear(const Kernels& kernels, const Weights& w, const float* x, int64_t count,
                    const float* residual, float* y, int threads) {
  const int64_t panels = wide_panels(w.layout, w.rows, w.columns);
  const int32_t offset =
      static_cast<int32_t>(divide_up(w.columns, kSextetColumns)) * kSextetOffset;
  // Some rows at a time, so that their integers stay in the second-level cache.
  constexpr int64_t kRowsAtOnce = 256;
  for (int64_t m0 = 0; m0 < count; m0 += kRowsAtOnce) {
    const int64_t rows = std::min(kRowsAtOnce, count - m0);
    int16_t* integers = scratch_array<int16_t>(Scratch::kQuantized, rows * w.columns);
    float scales[kRowsAtOnce];
    parallel_for(divide_up(rows, 8), rows > 8 ? threads : 1, [&](int64_t task) {
      for (int64_t m = 8 * task; m < std::min<int64_t>(rows, 8 * task + 8); m++)
        scales[m] = quantize_row(kernels, x + (m0 + m) * w.columns, w.columns,
                                 integers + m * w.columns);
    });
    for_blocks<Sextets>(rows, w.columns, panels, threads, [&](int64_t first, int inputs, int64_t begin,
                                                   int64_t end, int64_t id) {
      Block<Sextets> block(kernels, w, integers + first * w.columns, w.columns, inputs, begin, end,
                           id);
      const int32_t* totals = block.sum(0, 0, Scratch::kSums);
      for (int64_t p = begin; p < end; p++)
        for (int m = 0; m < inputs; m++) {
          const int32_t* pos = totals + ((p - begin) * inputs + m) * 2 * kPanelRows;
          const int32_t* neg = pos + kPanelRows;
          const int64_t row = p * kPanelRows, place = (m0 + first + m) * w.rows + row;
          const int64_t width = std::min<int64_t>(kPanelRows, w.rows - row);
          float values[kPanelRows];
          for (int64_t r = 0; r < width; r++)
            values[r] = scales[first + m] *
                        (w.scale_pos[row + r] * static_cast<float>(pos[r] - offset) -
                         w.scale_neg[row + r] * static_cast<float>(neg[r] - offset));
          finish_rows(values, w, row, width, residual ? residual + place : nullptr, y + place);
        }
    });
  }
}

}  // namespace

// Compilers vectorize these loops, which run for each call.
TableScales::TableScales(const Weights& w) : folded(true) {
  uint32_t different = 0;
  for (int64_t r = 0; r < w.rows; r++)
    different |= (bits(w.scale_pos[r]) ^ bits(w.scale_pos[0])) |
                 (bits(w.scale_neg[r]) ^ bits(w.scale_neg[0]));
  int64_t first = 0;
  while (first + 1 < w.rows && w.scale_pos[first] == 0 && w.scale_neg[first] == 0) first++;
  const float pos = w.scale_pos[first], neg = w.scale_neg[first];
  w_pos = pos;
  w_neg = neg;
  if (!different) return;
  const bool by_pos = std::fabs(pos) >= std::fabs(neg);
  const float* const scale = by_pos ? w.scale_pos : w.scale_neg;
  const float inverse = 1.0f / (by_pos ? pos : neg);
  float* found = scratch_array<float>(Scratch::kFactors, w.rows);
  different = !std::isfinite(inverse);
  for (int64_t r = 0; r < w.rows; r++) {
    const float factor = scale[r] * inverse;
    found[r] = factor;
    different |= std::fabs(factor * pos - w.scale_pos[r]) > kEqual * std::fabs(w.scale_pos[r]);
    different |= std::fabs(factor * neg - w.scale_neg[r]) > kEqual * std::fabs(w.scale_neg[r]);
  }
  factors = found;
  if (!different) return;
  folded = false;
  w_pos = 1;
  w_neg = 0;
}

void TableScales::apply(const Weights& w, int64_t row, int64_t count, const double* pos,
                        const double* neg, float* values) const {
  if (!folded)
    for (int64_t r = 0; r < count; r++)
      values[r] = static_cast<float>(w.scale_pos[row + r] * pos[r] + w.scale_neg[row + r] * neg[r]);
  else if (factors)
    for (int64_t r = 0; r < count; r++) values[r] = static_cast<float>(factors[row + r] * pos[r]);
  else
    for (int64_t r = 0; r < count; r++) values[r] = static_cast<float>(pos[r]);
}

void wide_linear(const Kernels& kernels, const Weights& weights, const float* x, int64_t count,
                 const float* residual, float* y, int threads) {
  if (weights.quantized)
    sextets_linear(kernels, weights, x, count, residual, y, threads);
  else
    triples_linear(kernels, weights, x, count, residual, y, threads);
}

}  // namespace ttq
